"""Tokenizers on disk: our own files and published ones; reading runs no code from the file."""

import argparse
import os
import pickle
from pathlib import Path

import torch

from fairseq_mhmoe.vision.tokenizer import VisualTokenizer
from fairseq_mhmoe.vision.vqvae import PatchVQ, PatchVQConfig

FORMAT = "fairseq_mhmoe image tokenizer"
VERSION = 1


def save_tokenizer(tokenizer: VisualTokenizer, path: str | os.PathLike) -> None:
    """Write a tokenizer, whole or not at all.

    Raises:
        ValueError: a kind of tokenizer that `load_tokenizer` could not read.
    """
    if not isinstance(tokenizer, PatchVQ):
        raise ValueError(f"a {type(tokenizer).__name__} has no file format; keep the published checkpoint as it is")
    content = {
        "format": FORMAT,
        "version": VERSION,
        "kind": "patch_vq",
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
    """Read a tokenizer onto the CPU: evaluation mode, no gradients.

    Raises:
        ValueError: the file is missing, damaged or something else.
    """
    path = Path(path)
    content = _read(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        if content.get("version") != VERSION or content.get("kind") != "patch_vq":
            raise ValueError(
                f"{path}: an image tokenizer of kind {content.get('kind')!r}, version {content.get('version')!r}; "
                f"this program reads kind 'patch_vq', version {VERSION}"
            )
        tokenizer = PatchVQ(PatchVQConfig(**content["config"]))
        tokenizer.load_state_dict(content["model"])
        return tokenizer.freeze()
    raise ValueError(f"{path}: not an image tokenizer")


def _read(path: Path):
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; expected an image tokenizer (scripts/train_image_tokenizer.sh makes one)"
        )
    try:
        # published checkpoints hold their training options beside the weights
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path}: damaged, or no file of torch.save with weights only; the reader said: {said}"
        ) from error
