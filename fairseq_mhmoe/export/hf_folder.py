"""Writing a Hugging Face folder: it is made beside its place, checked, and renamed; nothing in it is pickled."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq_mhmoe.checkpoint.writing import sync_folder
from fairseq_mhmoe.export.hf_card import LICENSE, model_card
from fairseq_mhmoe.export.hf_model import hf_config, hf_weights, kept_options
from fairseq_mhmoe.export.source import Source

HERE = Path(__file__).parent
CODE = (
    "configuration_mhmoe.py",
    "experts_mhmoe.py",
    "layers_mhmoe.py",
    "modeling_mhmoe.py",
)
TOKENIZER_CODE = "tokenization_mhmoe.py"
CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
AUTO_MAP = {
    "AutoConfig": "configuration_mhmoe.MHMoEConfig",
    "AutoModel": "modeling_mhmoe.MHMoEModel",
    "AutoModelForCausalLM": "modeling_mhmoe.MHMoEForCausalLM",
}


@contextmanager
def new_folder(target: Path, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `target`; it takes that name only if the block ends without an error.

    Args:
        force: replace `target` if it is a model's folder.
    Raises:
        ValueError: target exists and may not be replaced.
    """
    target = target.absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        if not force:
            raise ValueError(f"{target} exists; name another folder, or add --force")
        if not (target / CONFIG).is_file():
            raise ValueError(f"{target} is no model's folder (it has no {CONFIG}); name another one")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    former = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        temporary.mkdir()
        yield temporary
        for path in temporary.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        sync_folder(temporary)
        if target.exists():
            target.rename(former)
        temporary.rename(target)
        sync_folder(target.parent)
    except BaseException:
        if former.exists() and not target.exists():
            former.rename(target)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def write_folder(source: Source, folder: Path, dtype: torch.dtype, max_shard_bytes: int, say=print) -> None:
    """Write all files of a model into an empty folder.

    Args:
        dtype: of the weights; routers stay float32.
        max_shard_bytes: most bytes of a file with weights, unless one tensor alone is larger.
        say: told about each file with weights.
    Raises:
        ValueError: the model can't be exported, see `hf_config`.
    """
    sizes = source.sizes
    config = hf_config(source.cfg, source.task, *sizes)
    name = str(dtype).removeprefix("torch.")
    write_weights(hf_weights(dict(source.model.state_dict()), dtype), folder, max_shard_bytes, say)
    _json(
        folder / CONFIG,
        {"model_type": "mhmoe_lm", "architectures": ["MHMoEForCausalLM"], "auto_map": AUTO_MAP, "dtype": name}
        | config
        | {"fairseq": kept_options(source.cfg, source.task)},
    )
    # fairseq never generates a pad
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _json(folder / "generation_config.json", special | {"suppress_tokens": [config["pad_token_id"]]})
    for file in CODE:
        shutil.copyfile(HERE / file, folder / file)
    if source.tokenizer is not None:
        write_tokenizer(source, folder, config)
    (folder / "README.md").write_text(model_card(source, config, name), encoding="utf-8")
    (folder / "LICENSE").write_text(LICENSE, encoding="utf-8")


def write_weights(weights: dict[str, Tensor], folder: Path, max_shard_bytes: int, say=print) -> None:
    """model.safetensors, or numbered files of at most max_shard_bytes each and an index."""
    from safetensors.torch import save_file

    shards = split_by_size(weights, max_shard_bytes)
    names = [WEIGHTS]
    if len(shards) > 1:
        names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for number, (name, keys) in enumerate(zip(names, shards, strict=True), start=1):
        save_file({key: weights[key] for key in keys}, folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o666 & ~_umask())  # safetensors makes files that nobody else may read
        say(f"{name}: {(folder / name).stat().st_size:,} bytes ({number} of {len(shards)})")
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in weights.values())
        where = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        _json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def split_by_size(weights: dict[str, Tensor], most: int) -> list[list[str]]:
    """Names of tensors in order, in groups of at most `most` bytes; a larger tensor is a group alone."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in weights.items():
        if groups[-1] and size + tensor.nbytes > most:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensor.nbytes
    return groups


def write_tokenizer(source: Source, folder: Path, config: dict[str, Any]) -> None:
    """The tokenizer's own file, fairseq's dictionary, code and settings."""
    name, content = source.tokenizer
    (folder / name).write_bytes(content)
    vocabulary = {symbol: number for number, symbol in enumerate(source.dictionary.symbols)}
    _json(folder / "vocab.json", vocabulary, indent=0)
    shutil.copyfile(HERE / TOKENIZER_CODE, folder / TOKENIZER_CODE)
    symbols = source.dictionary.symbols
    settings = {
        "tokenizer_class": "MHMoETokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_mhmoe.MHMoETokenizer", None]},
        "add_bos_token": True,
        "model_max_length": config["max_position_embeddings"],
        "padding_side": "left",
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "unk_token": symbols[3],
    }
    tokens = {f"{role}_token": symbols[config[f"{role}_token_id"]] for role in ("bos", "eos", "pad")}
    _json(folder / "tokenizer_config.json", settings | tokens)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _json(path: Path, content: Any, indent: int = 2) -> None:
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
