"""A Hugging Face folder of ours as a checkpoint that fairseq's programs take; reads JSON and safetensors only."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf, open_dict
from torch import Tensor

from fairseq_mhmoe.checkpoint.writing import write_dense
from fairseq_mhmoe.data.checks import load_dictionary
from fairseq_mhmoe.export.hf_folder import CONFIG, INDEX, WEIGHTS
from fairseq_mhmoe.export.hf_model import (
    MODEL_TYPE,
    build_model,
    differing_fields,
    hf_config,
    options_of,
    to_fairseq_name,
)

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def import_folder(folder: Path, target: Path, data: Path | None = None) -> int:
    """Write a checkpoint with the folder's weights, in float32, and the options of its training; without optimizer.

    Args:
        data: prepared folder to be named in the checkpoint; its dictionary must be the model's.
    Returns:
        number of parameters.
    Raises:
        ValueError: the folder holds another kind of model, or tensors that do not fit its configuration.
    """
    config = read_config(folder)
    model, task = options_of(config.get("fairseq"))
    sizes = config["vocab_size"], config.get("output_size") or config["vocab_size"]
    _check_dictionary(folder, data, sizes[0])
    with open_dict(model):
        expected = hf_config(model, _Task(task), *sizes)
    if differing := differing_fields(config, expected):
        raise ValueError(f'{folder / CONFIG} was changed: {"; ".join(differing[:3])}, by the options in its "fairseq"')
    shapes = {
        name: tuple(tensor.shape) for name, tensor in build_model(model, *sizes, device="meta").state_dict().items()
    }
    weights = read_weights(folder, shapes, tied=config["tie_word_embeddings"])
    write_dense(checkpoint_state(weights, model, task, data), target)
    return sum(tensor.numel() for tensor in weights.values())


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder of ours; ValueError for anything else."""
    content = _read_json(folder / CONFIG)
    found = content.get("model_type")
    if found != MODEL_TYPE:
        raise ValueError(
            f"{folder / CONFIG}: model_type is {found!r}; expected {MODEL_TYPE!r}, as mhmoe-export writes it"
        )
    for name in ("vocab_size", "hidden_size", "num_hidden_layers"):
        if not isinstance(content.get(name), int) or isinstance(content[name], bool) or content[name] < 1:
            raise ValueError(f"{folder / CONFIG}: {name} is {content.get(name)!r}; expected a positive number")
    if not isinstance(content.get("tie_word_embeddings"), bool):
        # transformers leaves out what equals its own default
        content["tie_word_embeddings"] = True
    return content


def read_weights(folder: Path, shapes: dict[str, tuple[int, ...]], tied: bool) -> dict[str, Tensor]:
    """Tensors by fairseq's names, as float32.

    Args:
        shapes: expected, by fairseq's names.
        tied: whether a tensor of the output projection may be there although the embedding is the output.
    Raises:
        ValueError: a file is damaged or missing, a tensor is missing, of another shape, of no float type, or unknown.
    """
    from safetensors import SafetensorError, safe_open

    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    _take(weights, to_fairseq_name(name), name, file.get_tensor(name), shapes, tied, path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} can't be read, it is damaged or missing: {error}") from None
    missing = [name for name in shapes if name not in weights]
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} tensors of the model, such as {missing[0]}")
    return {name: weights[name] for name in shapes}


def _take(weights, name: str, hf_name: str, tensor: Tensor, shapes, tied: bool, path: Path) -> None:
    if tied and hf_name == "lm_head.weight":
        return
    if name not in shapes:
        raise ValueError(f"{path} has a tensor {hf_name}, which the model of {CONFIG} does not have")
    if name in weights:
        raise ValueError(f"{path} has the tensor {hf_name} once more")
    if tuple(tensor.shape) != shapes[name]:
        raise ValueError(f"{path}: {hf_name} has shape {tuple(tensor.shape)}; expected {shapes[name]}")
    if tensor.dtype not in FLOATS:
        raise ValueError(f"{path}: {hf_name} is {tensor.dtype}; expected float32, float16 or bfloat16")
    weights[name] = tensor.float()


def weight_files(folder: Path) -> list[Path]:
    """The files with weights: model.safetensors, or those of the index; ValueError if there are none."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder} has neither {WEIGHTS} nor {INDEX}")
    names = _read_json(folder / INDEX).get("weight_map")
    names = sorted(set(names.values())) if isinstance(names, dict) and names else None
    if names is None or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ValueError(f"{folder / INDEX} has no weight_map from tensors to files of this folder")
    return [folder / name for name in names]


def checkpoint_state(weights: dict[str, Tensor], model: Any, task: dict[str, Any], data: Path | None) -> dict[str, Any]:
    """What fairseq's trainer would have saved before its first update, without an optimizer's state."""
    words = [str(data or ""), "--task", "gpt", "--arch", "mhmoe_lm", "--criterion", "moe_cross_entropy"]
    words += ["--optimizer", "adam", "--lr-scheduler", "fixed"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of hydra, about how fairseq calls it
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
    with open_dict(cfg):
        cfg.model = OmegaConf.merge(cfg.model, OmegaConf.to_container(model, resolve=False, enum_to_str=True))
        cfg.model._name = "mhmoe_lm"
        for name, value in task.items():
            cfg.task[name] = value
    history = {
        "criterion_name": "MoECrossEntropyCriterion",
        "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {"best": None},
        "num_updates": 0,
    }
    position = {"version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": True}
    return {
        "args": None,
        "cfg": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
        "model": weights,
        "criterion": None,
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {"train_iterator": position, "previous_training_time": 0.0},
    }


class _Task:
    """Options of the task with the defaults of what is not there."""

    def __init__(self, given: dict[str, Any]):
        self.add_bos_token = bool(given.get("add_bos_token", False))


def _check_dictionary(folder: Path, data: Path | None, size: int) -> None:
    if data is None:
        return
    dictionary = load_dictionary(data)
    if len(dictionary) != size:
        raise ValueError(f"{data} has a dictionary of {len(dictionary):,} symbols, the model one of {size:,}")
    if (folder / "vocab.json").is_file():
        vocabulary = _read_json(folder / "vocab.json")
        other = [symbol for number, symbol in enumerate(dictionary.symbols) if vocabulary.get(symbol) != number]
        if other:
            raise ValueError(
                f"{data} has another dictionary than the model: {len(other)} symbols, such as {other[0]!r}"
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content
