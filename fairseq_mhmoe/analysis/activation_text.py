"""Text for an analysis, batch by batch: a split of prepared data or a file of lines. B rows, T tokens.

Only one batch is in memory, however long the text.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fairseq.data import data_utils
from torch import Tensor

from fairseq_mhmoe.data.manifest import read_manifest
from fairseq_mhmoe.evaluation.loading import Loaded
from fairseq_mhmoe.evaluation.parts import parts_of


@dataclass(frozen=True)
class Batch:
    """What the model reads next."""

    source: str  # corpus or language; the file's name for a file
    tokens: Tensor  # [B, T] int64, pads on the right
    count: int  # tokens without pads
    done: float  # share of the whole work, 0..1, that is done after this batch


def split_batches(
    loaded: Loaded, split: str, batch_size: int, max_tokens: int | None = None
) -> tuple[list[str], Iterator[Batch]]:
    """The split in its order, in the blocks of the model's task, sources one after the other.

    Args:
        split: "valid", or "de/valid" of one source.
        batch_size: B, blocks at once.
        max_tokens: stop after exactly so many tokens; several sources keep their proportions.
    Returns:
        names of the sources, and the batches.
    Raises:
        ValueError: no such split.
    """
    task = loaded.task
    found = parts_of(task, loaded.data, read_manifest(loaded.data), split)
    parts = {name or split: part for name, part in found.items()}  # fairseq's own task knows no sources
    sizes = []
    for part in parts.values():
        task.load_dataset(part)
        extra = len(task.dataset(part)) if _adds_bos(task) else 0
        sizes.append(int(np.sum(task.dataset(part).sizes)) + extra)
    budgets = sizes if max_tokens is None else shares_of(max_tokens, sizes)

    def batches() -> Iterator[Batch]:
        whole, before = max(sum(budgets), 1), 0
        for (name, part), budget in zip(parts.items(), budgets, strict=True):
            dataset = task.dataset(part)
            shape = {
                "pad_to_length": getattr(dataset, "fixed_pad_length", None),
                "pad_to_bsz": getattr(dataset, "pad_to_bsz", None),
            }
            rows = cut((dataset[index]["source"] for index in range(len(dataset))), budget)
            for chunk in chunks(rows, batch_size):
                count = sum(map(len, chunk))
                before += count
                pad = loaded.dictionary.pad()
                yield Batch(name, data_utils.collate_tokens(chunk, pad, **shape), count, before / whole)

    return list(parts), batches()


def text_batches(
    loaded: Loaded, path: Path, batch_size: int, max_tokens: int | None = None
) -> tuple[list[str], Iterator[Batch]]:
    """A file of raw text, each line a document, in blocks as training has them; lines without text are left out.

    Args:
        path: UTF-8; the model's tokenizer makes tokens of it.
    Returns:
        the file's name as the only source, and the batches.
    Raises:
        ValueError: no such file, it is not UTF-8, or the data has no tokenizer.
    """
    if not path.is_file():
        raise ValueError(f"--text: no file {path}")
    size, position = max(os.path.getsize(path), 1), 0
    text, dictionary = loaded.text(), loaded.dictionary
    bos = dictionary.bos() if _adds_bos(loaded.task) else None

    def documents() -> Iterator[Tensor]:
        nonlocal position
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                position += len(line)
                try:
                    decoded = line.decode("utf-8").strip()
                except UnicodeDecodeError as error:
                    raise ValueError(f"--text: {path}, line {number} is not UTF-8: {error}") from None
                if decoded:
                    pieces = dictionary.encode_line(text.encode(decoded), append_eos=False, add_if_not_exist=False)
                    yield torch.cat([torch.tensor([dictionary.eos()]), pieces.long()])

    def batches() -> Iterator[Batch]:
        seen = 0
        rows = pack(documents(), loaded.task.args.tokens_per_sample, bos)
        for chunk in chunks(rows if max_tokens is None else cut(rows, max_tokens), batch_size):
            count = sum(map(len, chunk))
            seen += count
            done = position / size if max_tokens is None else max(position / size, seen / max_tokens)
            yield Batch(path.name, data_utils.collate_tokens(chunk, dictionary.pad()), count, min(done, 1.0))

    return [path.name], batches()


def shares_of(total: int, sizes: Sequence[int]) -> list[int]:
    """`total` split in proportion to sizes, exactly, none more than its size (largest remainders first)."""
    whole = sum(sizes)
    if total >= whole:
        return list(sizes)
    shares = [total * size // whole for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda index: (-(total * sizes[index] % whole), index))
    for index in by_remainder[: total - sum(shares)]:
        shares[index] += 1
    return shares


def cut(rows: Iterable[Tensor], tokens: int) -> Iterator[Tensor]:
    """The rows up to this number of tokens; the last one is shortened."""
    rows = iter(rows)
    while tokens > 0:
        row = next(rows, None)
        if row is None:
            return
        row = row[:tokens]
        tokens -= len(row)
        yield row


def pack(documents: Iterable[Tensor], length: int, bos: int | None = None) -> Iterator[Tensor]:
    """Documents one behind the other in rows of `length` tokens, the last one shorter; `bos` before each row."""
    parts, filled = [torch.tensor([bos])] if bos is not None else [], 0
    first = list(parts)
    for document in documents:
        while len(document):
            part, document = document[: length - filled], document[length - filled :]
            parts.append(part)
            filled += len(part)
            if filled == length:
                yield torch.cat(parts)
                parts, filled = list(first), 0
    if filled:
        yield torch.cat(parts)


def chunks(rows: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Rows in lists of `size`, the last one shorter."""
    chunk = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _adds_bos(task) -> bool:
    return bool(getattr(task.args, "add_bos_token", False))
