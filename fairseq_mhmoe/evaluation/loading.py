"""A checkpoint as a model that can be asked: with its task, its dictionary and its tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, tasks, utils
from fairseq.data import Dictionary
from omegaconf import open_dict
from torch import nn

import fairseq_mhmoe  # noqa: F401  registers models and tasks, and lets checkpoints of several ranks be read
from fairseq_mhmoe.data.text import SentencePieceText, TiktokenText
from fairseq_mhmoe.moe.layer import MoELayer


@dataclass(frozen=True)
class Loaded:
    """What `load_checkpoint` found."""

    path: Path
    model: nn.Module  # in evaluation mode, on its device
    task: Any  # of the checkpoint, reading the folder `data`
    cfg: Any  # the checkpoint's configuration (model, task, ...)
    data: Path  # prepared folder
    updates: int | None = None  # of the training so far; None where the file does not tell

    @property
    def dictionary(self) -> Dictionary:
        """The symbols of the input."""
        return self.task.source_dictionary

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def multimodal(self) -> bool:
        """Whether the model reads images too; else it is a language model."""
        return kind_of(self.cfg) == "multimodal"

    @property
    def longest(self) -> int:
        """Most tokens that the model takes at once."""
        return int(self.model.max_positions())

    def moe_layers(self) -> list[tuple[int | str, MoELayer]]:
        """(number of the block, its MoE layer), in order; empty for a dense model.

        Where images and text have separate experts, (label such as "3_image", the experts of that modality).
        """
        if self.multimodal:
            return self.model.moe_layers()
        blocks = enumerate(self.model.decoder.layers)
        return [(number, block.moe_layer) for number, block in blocks if block.is_moe]

    def text(self) -> SentencePieceText | TiktokenText:
        """The tokenizer of the data.

        Raises:
            ValueError: the folder has none.
        """
        found = self.task.build_bpe(self.cfg.bpe)
        if found is None:
            raise ValueError(f"{self.data} has no tokenizer; name the prepared folder that the model was trained on")
        return found


KINDS = {"language": "language model", "multimodal": "multimodal model"}
EMBEDDINGS = {"language": "decoder.embed_tokens.weight", "multimodal": "beit3.text_embed.weight"}


def kind_of(cfg: Any) -> str | None:
    """What a checkpoint's configuration is of: a key of KINDS; None for models that are not ours."""
    model = getattr(cfg, "model", None)
    if getattr(model, "_name", None) is None or not hasattr(model, "moe_freq"):
        return None
    return "multimodal" if hasattr(model, "moe_modality") else "language"


def load_checkpoint(
    checkpoint: str | Path,
    data: str | Path | None = None,
    device: str | torch.device | None = None,
    task_changes: dict[str, Any] | None = None,
    kinds: Sequence[str] = ("language",),
) -> Loaded:
    """Load a model of this package, written by any number of ranks, into one process.

    Args:
        checkpoint: the .pt file.
        data: prepared folder with dictionary and tokenizer; None takes the one that the checkpoint names.
        device: where to put the model; None: the GPU if there is one.
        task_changes: options of the task that are to differ from the checkpoint's, by name; None is unset.
        kinds: keys of KINDS, of the models that are expected.
    Raises:
        ValueError: no such checkpoint or folder, the checkpoint holds another kind of model or was trained with another
            dictionary, or its task has no such option.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise ValueError(f"no checkpoint {path}; expected a file such as checkpoint_best.pt")
    state = checkpoint_utils.load_checkpoint_to_cpu(str(path))
    cfg = state["cfg"]
    kind = kind_of(cfg)
    if kind not in kinds:
        expected = " or ".join(KINDS[each] for each in kinds)
        found = f"; it is a {KINDS[kind]}" if kind else ""
        raise ValueError(
            f"{path} holds no {expected} of fairseq_mhmoe; expected one that --arch of ours trained{found}"
        )
    folder = Path(data if data is not None else utils.split_paths(cfg.task.data)[0])
    if not folder.is_dir():
        raise ValueError(f"no data folder {folder}; name the prepared folder that the model was trained on")
    with open_dict(cfg):
        cfg.task.data = str(folder.absolute())
        for name, value in (task_changes or {}).items():
            if name in cfg.task:
                cfg.task[name] = value
            elif value is not None:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{path} was trained with task {cfg.task._name}, which has no {option} {value}")
    if kind == "multimodal":
        cfg.task.train_subset = ""  # no split is cropped at random, or read in random order, because it was trained on
    task = tasks.setup_task(cfg.task)
    trained, there = len(state["model"][EMBEDDINGS[kind]]), len(task.source_dictionary)
    if trained != there:
        raise ValueError(
            f"{path} was trained with a dictionary of {trained} symbols, the one of {folder} has {there}; name the "
            "prepared folder that the model was trained on"
        )
    [model], _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], task=task, state=state)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    history = state.get("optimizer_history") or [{}]
    return Loaded(path, model.to(device).eval(), task, cfg, folder, history[-1].get("num_updates"))
