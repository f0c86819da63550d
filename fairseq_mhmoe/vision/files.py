"""Tokenizers on disk: our own files and published ones; reading runs no code from the file."""

import argparse
import errno
import os
from pathlib import Path

import torch

from fairseq_mhmoe.vision import vqkd
from fairseq_mhmoe.vision.tokenizer import VisualTokenizer
from fairseq_mhmoe.vision.vqkd import VQKD, VQKDConfig
from fairseq_mhmoe.vision.vqvae import PatchVQ, PatchVQConfig

FORMAT = "fairseq_mhmoe image tokenizer"
VERSION = 1
KINDS = {"patch_vq": (PatchVQ, PatchVQConfig), "vqkd": (VQKD, VQKDConfig)}


def save_tokenizer(tokenizer: VisualTokenizer, path: str | os.PathLike) -> None:
    """Write a tokenizer, whole or not at all.

    Raises:
        ValueError: a kind of tokenizer that `load_tokenizer` could not read.
    """
    kinds = [kind for kind, (made, _) in KINDS.items() if type(tokenizer) is made]
    if not kinds:
        raise ValueError(f"{type(tokenizer).__name__} has no file format; expected {' or '.join(KINDS)}")
    content = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kinds[0],
        "config": tokenizer.settings(),
        "model": {name: tensor.detach().cpu() for name, tensor in tokenizer.state_dict().items()},
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_tokenizer(path: str | os.PathLike) -> VisualTokenizer:
    """Read one of our tokenizers, or a published VQ-KD checkpoint of BEiT v2.

    Returns:
        the tokenizer on the CPU, in float32 and evaluation mode, without gradients.
    Raises:
        ValueError: the file is missing, damaged or something else; names of weights that are missing or unknown.
    """
    path = Path(path)
    content = _read(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}; expected an image tokenizer")
    try:
        if content.get("format") == FORMAT:
            tokenizer = _ours(content)
        else:
            # as BEiT v2 saves them, as Lightning does, or the bare weights
            tokenizer = vqkd.from_published(_weights(content))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return tokenizer.freeze()


def _ours(content: dict) -> VisualTokenizer:
    kind, version = content.get("kind"), content.get("version")
    if version != VERSION or kind not in KINDS:
        raise ValueError(
            f"an image tokenizer of kind {kind!r}, version {version!r}; "
            f"this program reads {' and '.join(KINDS)}, version {VERSION}"
        )
    made, settings = KINDS[kind]
    try:
        tokenizer = made(settings(**content["config"]))
        tokenizer.load_state_dict(content["model"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"an image tokenizer whose parts do not fit together: {error}") from error
    return tokenizer


def _weights(content: dict) -> dict:
    state = content.get("model", content.get("state_dict", content))
    if not isinstance(state, dict) or not vqkd.is_published(state):
        raise ValueError(
            "no image tokenizer; expected a file of scripts/train_image_tokenizer.sh, or a VQ-KD checkpoint of BEiT v2 "
            "(weights named encoder.*, encode_task_layer.*, quantize.*)"
        )
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}


def _read(path: Path):
    if not path.is_file():
        raise ValueError(f"{path}: no such file; scripts/train_image_tokenizer.sh makes an image tokenizer")
    try:
        # published checkpoints hold their training options beside the weights
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a changed file can end in any of them
        # a wrong offset makes the reader seek to nowhere, which is EINVAL
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno != errno.EINVAL):
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: damaged, or not a file of weights only; the reader said: {said}") from error
