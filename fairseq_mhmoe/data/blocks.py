"""Samples of one source, read by position from fairseq's mmap indexes: the same as TokenBlockDataset's.

That class maps the whole file, whose pages then count as memory of every process that reads it, and forms each sample
from the tensors of its documents. Here a sample is one read of a file. N samples, T tokens in a sample.
"""

import bisect
import os
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from fairseq.data import FairseqDataset
from fairseq.data.token_block_utils_fast import _get_slice_indices_fast
from torch import Tensor

from fairseq_mhmoe.data.checks import HEADER, IndexSummary

# with hundreds of sources, each in its own files, a process would run out of descriptors
OPEN_FILES = 64
DOCUMENTS_AT_ONCE = 1 << 20
# what a model may be told about the text before a sample: the token before it, and for past targets the two before
CONTEXT = 2


class Descriptor:
    """A file that is open as long as somebody holds this object."""

    def __init__(self, path: str):
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self):
        if hasattr(self, "number"):
            os.close(self.number)


@lru_cache(maxsize=OPEN_FILES)
def _open(path: str, inode: int, changed: int) -> Descriptor:
    return Descriptor(path)


class TokenFile:
    """The tokens of PREFIX.bin, of which `checks.read_index` gave the summary."""

    def __init__(self, prefix: Path, summary: IndexSummary):
        self.prefix = prefix
        self.summary = summary
        self.dtype = np.dtype(summary.dtype)
        self.path = str(prefix.with_name(prefix.name + ".bin"))
        status = os.stat(self.path)
        self._state = status.st_ino, status.st_mtime_ns

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens start .. stop - 1, int64; ValueError when the file has become shorter."""
        # the object, not its number: another thread may push it out of the cache meanwhile
        descriptor = _open(self.path, *self._state)
        size = (stop - start) * self.dtype.itemsize
        content = os.pread(descriptor.number, size, start * self.dtype.itemsize)
        if len(content) != size:
            raise ValueError(f"{self.path} was cut while it was read: no tokens {start} to {stop}; prepare it again")
        return np.frombuffer(content, dtype=self.dtype).astype(np.int64)

    def document_sizes(self) -> np.ndarray:
        """Tokens of each document, int32."""
        index = self.prefix.with_name(self.prefix.name + ".idx")
        return np.fromfile(index, dtype=np.int32, count=self.summary.documents, offset=HEADER.size)


class TokenStream:
    """The tokens of several files, one after the other."""

    def __init__(self, files: Sequence[TokenFile]):
        self.files = list(files)
        self.ends = list(accumulate(file.summary.tokens for file in files))

    def __len__(self) -> int:
        return self.ends[-1]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens start .. stop - 1, int64."""
        number = bisect.bisect_right(self.ends, start)
        parts = []
        while start < stop:
            first = self.ends[number] - self.files[number].summary.tokens
            end = min(stop, self.ends[number])
            parts.append(self.files[number].read(start - first, end - first))
            start, number = end, number + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Blocks(FairseqDataset):
    """Samples of a source: (source, target, past target), int64 [T] each, as TokenBlockDataset gives them.

    source is target shifted by one, behind the token that stands before it in its document or eos; past target is
    shifted by two, and None unless asked for.

    Args:
        files: of one source and split, in order.
        block_size: tokens of a sample; its most where break_mode keeps documents whole.
        break_mode: "none" (blocks of equal size over all documents), "complete", "complete_doc" or "eos".
        eos, pad: numbers in the dictionary. with_past: whether past targets are wanted.
    """

    def __init__(
        self, files: Sequence[TokenFile], block_size: int, break_mode: str, eos: int, pad: int, with_past: bool = False
    ):
        self.files = list(files)
        self.stream = TokenStream(files)
        self.block_size = block_size
        self.with_past = with_past
        self._beginning = np.array([pad, eos])
        if break_mode == "none":
            count = -(-len(self.stream) // block_size)
            self.sizes = np.full(count, block_size, dtype=np.int32)
            self.sizes[-1] = len(self.stream) - (count - 1) * block_size
            self._starts, self._before = None, self._tokens_before()
        else:
            # samples begin where documents begin
            self._starts, self.sizes = self._whole_documents(break_mode)
            self._before = None

    def _tokens_before(self) -> np.ndarray:
        """For each block the number of tokens before it in its document, at most CONTEXT: [N] uint8."""
        before = np.full(len(self.sizes) + 1, CONTEXT, dtype=np.uint8)
        end = 0
        for file in self.files:
            sizes = file.document_sizes()
            for first in range(0, len(sizes), DOCUMENTS_AT_ONCE):
                ends = end + np.cumsum(sizes[first : first + DOCUMENTS_AT_ONCE], dtype=np.int64)
                starts = np.concatenate([[end], ends[:-1]])
                end = int(ends[-1])
                numbers, offsets = np.divmod(starts, self.block_size)
                before[numbers[offsets == self.block_size - 1] + 1] = 1
                before[numbers[offsets == 0]] = 0
        return before[:-1]

    def _whole_documents(self, break_mode: str) -> tuple[np.ndarray, np.ndarray]:
        """First tokens [N] int64 and sizes [N] int32."""
        sizes = np.concatenate([file.document_sizes() for file in self.files])
        if break_mode == "eos":
            starts = np.cumsum(sizes, dtype=np.int64)
            starts -= sizes
            return starts, sizes
        slices = _get_slice_indices_fast(sizes.astype(np.int64), break_mode, self.block_size, 1)
        return slices[:, 0].copy(), (slices[:, 1] - slices[:, 0]).astype(np.int32)

    def document_sizes(self) -> np.ndarray:
        """Tokens of each document of this source and split, in order, int32."""
        return np.concatenate([file.document_sizes() for file in self.files])

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor | None]:
        size = int(self.sizes[index])
        start = int(index) * self.block_size if self._starts is None else int(self._starts[index])
        before = int(self._before[index]) if self._before is not None else 0
        wanted = CONTEXT if self.with_past else 1
        tokens = self.stream.read(start - min(before, wanted), start + size)
        if before < wanted:
            # "pad, eos" stand before a document
            missing = self._beginning[len(self._beginning) - wanted + before :]
            tokens = np.concatenate([missing, tokens])
        tokens = torch.from_numpy(tokens)
        past = tokens[:size] if self.with_past else None
        return tokens[wanted - 1 : wanted - 1 + size], tokens[wanted:], past
