"""The text that `mhmoe-analyze activation` and `diversity` read: their common options, and the model that reads it."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from fairseq_mhmoe.analysis.activation_text import Batch, split_batches, text_batches
from fairseq_mhmoe.evaluation.loading import Loaded, load_checkpoint


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """DATA and the options that say what is read, how much of it, and on what."""
    parser.add_argument("data", type=Path, metavar="DATA", help="prepared folder with dictionary, tokenizer and text")
    add_reading_arguments(parser)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """The options without DATA."""
    parser.add_argument("--split", help="of the data, or of one source: de/test (default: valid)")
    parser.add_argument("--sources", help="comma-separated sources of the data to read (default: all)")
    parser.add_argument("--text", type=Path, metavar="FILE", help="raw text instead of a split, each line a document")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="stop after exactly N tokens (default: all)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="B", help="blocks at once (default: 8)")
    parser.add_argument(
        "--tokens-per-sample", type=int, metavar="T", help="length of a block (default: as the model was trained)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    parser.add_argument("--seed", type=int, default=1, help="of models that draw experts at random (default: 1)")


def check_text(arguments: argparse.Namespace, *counts: str) -> None:
    """ValueError for options of the text that can't be, or for one of `counts`, names of whole numbers, below 1."""
    for name in ("max_tokens", "batch_size", "tokens_per_sample", *counts):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected 1 or more")
    if arguments.text is not None:
        for option in ("split", "sources"):
            if getattr(arguments, option) is not None:
                raise ValueError(f"--{option} and --text both say what to read; leave one of them out")


def load(checkpoint: Path, arguments: argparse.Namespace, kinds: Sequence[str] = ("language",)) -> Loaded:
    """The model, whose task reads the sources asked for, each token once, in blocks that the model takes."""
    changes = {"sources": arguments.sources, "source_weights": None}
    loaded = load_checkpoint(checkpoint, arguments.data, arguments.device, changes, kinds)
    if loaded.multimodal:
        return loaded
    length = arguments.tokens_per_sample or loaded.task.args.tokens_per_sample
    extra = 1 if loaded.task.args.add_bos_token else 0
    if arguments.tokens_per_sample and length + extra > loaded.longest:
        raise ValueError(f"--tokens-per-sample {length}: {checkpoint} takes at most {loaded.longest - extra} tokens")
    loaded.task.args.tokens_per_sample = min(length, loaded.longest - extra)
    return loaded


def batches_of(loaded: Loaded, arguments: argparse.Namespace) -> tuple[list[str], Iterator[Batch]]:
    """Names of the sources, and the batches of the text that was asked for."""
    if arguments.text is None:
        return split_batches(loaded, arguments.split or "valid", arguments.batch_size, arguments.max_tokens)
    return text_batches(loaded, arguments.text, arguments.batch_size, arguments.max_tokens)


def named(arguments: argparse.Namespace) -> dict[str, str]:
    """What was read, for a JSON file: {"split": name} or {"text": file}."""
    return {"text": str(arguments.text)} if arguments.text else {"split": arguments.split or "valid"}
