"""What `mhmoe-analyze activation` reads with multimodal checkpoints: options, and the model with its batches."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from fairseq_mhmoe.analysis.activation_streams import STREAMS, StreamBatch, stream_batches
from fairseq_mhmoe.cli.analyze_text import load
from fairseq_mhmoe.evaluation.loading import KINDS, Loaded

# about the text of language models
TEXT_ONLY = ("sources", "text", "max_tokens", "tokens_per_sample")
STREAMS_ONLY = ("streams", "max_records")


def add_stream_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that are for multimodal models only."""
    parser.add_argument(
        "--streams",
        metavar="S,...",
        help=f"of a multimodal model: some of {','.join(STREAMS)} (default: those that it was trained on)",
    )
    parser.add_argument(
        "--max-records", type=int, metavar="N", help="of a multimodal model: records of each stream (default: all)"
    )


def check_streams(arguments: argparse.Namespace) -> None:
    """ValueError for options that can't be; --streams becomes a list."""
    if arguments.max_records is not None and arguments.max_records < 1:
        raise ValueError(f"--max-records is {arguments.max_records}; expected 1 or more")
    if arguments.streams is None:
        return
    words = arguments.streams.split(",")
    wrong = [word for word in words if word not in STREAMS]
    if wrong or len(set(words)) < len(words):
        raise ValueError(f"--streams {arguments.streams}: expected different ones of {', '.join(STREAMS)}")
    arguments.streams = words


def load_any(checkpoint: Path, arguments: argparse.Namespace) -> Loaded:
    """A language model whose task reads what was asked for, or a multimodal model.

    Raises:
        ValueError: neither of them, or options that are for the other kind.
    """
    loaded = load(checkpoint, arguments, kinds=tuple(KINDS))
    useless = TEXT_ONLY if loaded.multimodal else STREAMS_ONLY
    given = [f"--{name.replace('_', '-')}" for name in useless if getattr(arguments, name) is not None]
    if given:
        kind, other = ("a multimodal", "language") if loaded.multimodal else ("a language", "multimodal")
        raise ValueError(f"{', '.join(given)}: for {other} models, and {checkpoint} is {kind} model; leave it out")
    return loaded


def stream_batches_of(loaded: Loaded, arguments: argparse.Namespace) -> tuple[list[str], Iterator[StreamBatch]]:
    """Names of what is counted apart, and the batches of the records that were asked for."""
    split = arguments.split or "valid"
    return stream_batches(loaded, split, arguments.batch_size, arguments.streams, arguments.max_records)
