"""Write documents as fairseq's mmap indexes: one document is one item, ending in eos."""

import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from data_prep.files import flush_to_disk
from data_prep.text_files import read_texts
from data_prep.tokenizers import load_tokenizer
from data_prep.tokenizers.dictionary import EOS, FAIRSEQ_SPECIALS
from data_prep.tokenizers.windows import WINDOW

# fairseq's mmap index: magic, version, dtype code, number of items; then sizes (int32) and addresses (int64)
MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQ")
TYPE_CODES = {np.dtype(np.uint16): 8, np.dtype(np.int32): 4}
DOCUMENTS_AT_ONCE = 64
SIZES_AT_ONCE = 1 << 20


def token_dtype(dictionary_size: int) -> type:
    """uint16 where it holds every id (fairseq's own bound), else int32."""
    return np.uint16 if dictionary_size < 65500 else np.int32


class IndexWriter:
    """PREFIX.bin and PREFIX.idx, under temporary names until the end; use as a context manager.

    The bytes are those of fairseq's MMapIndexedDatasetBuilder, which keeps a Python object for each item in memory:
    here they go to the disk at once. An exception inside the block leaves no file.
    """

    def __init__(self, prefix: Path, dtype: type):
        self.prefix = prefix
        self.dtype = np.dtype(dtype)

    def __enter__(self) -> "IndexWriter":
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = {
            ending: self.prefix.with_name(f".{self.prefix.name}.{os.getpid()}.tmp.{ending}")
            for ending in ("bin", "idx", "sizes")
        }
        self._data = open(self._temporary["bin"], "wb")
        self._sizes = open(self._temporary["sizes"], "wb")
        self._items = 0
        return self

    def add(self, tokens: np.ndarray) -> None:
        """Append one item; tokens [T], any integer type."""
        self._data.write(tokens.astype(self.dtype).tobytes())
        self._sizes.write(struct.pack("<i", len(tokens)))
        self._items += 1

    def add_shard(self, prefix: Path) -> None:
        """Append all items of another index of the same dtype."""
        index = prefix.with_name(prefix.name + ".idx")
        with open(index, "rb") as file:
            header = file.read(HEADER.size)
            expected = (MAGIC, 1, TYPE_CODES[self.dtype])
            if len(header) < HEADER.size or (fields := HEADER.unpack(header))[:3] != expected:
                raise ValueError(f"{index} is no mmap index of {self.dtype}; delete the work folder and run again")
            for sizes in _read_sizes(file, fields[3]):
                self._sizes.write(sizes.tobytes())
        self._items += fields[3]
        with open(prefix.with_name(prefix.name + ".bin"), "rb") as file:
            shutil.copyfileobj(file, self._data, 1 << 20)

    def __exit__(self, error_type, error, traceback) -> None:
        with ExitStack() as stack:
            for temporary in self._temporary.values():
                stack.callback(temporary.unlink, missing_ok=True)
            self._data.close()
            self._sizes.close()
            if error_type is None:
                self._write_index()
                for ending in ("bin", "idx"):
                    flush_to_disk(self._temporary[ending])
                for ending in ("bin", "idx"):
                    os.replace(self._temporary[ending], self.prefix.with_name(f"{self.prefix.name}.{ending}"))

    def _write_index(self) -> None:
        with open(self._temporary["idx"], "wb") as index, open(self._temporary["sizes"], "rb") as sizes_file:
            index.write(HEADER.pack(MAGIC, 1, TYPE_CODES[self.dtype], self._items))
            shutil.copyfileobj(sizes_file, index, 1 << 20)
            sizes_file.seek(0)
            address = 0
            for sizes in _read_sizes(sizes_file, self._items):
                ends = address + np.cumsum(sizes, dtype=np.int64) * self.dtype.itemsize
                index.write((ends - sizes.astype(np.int64) * self.dtype.itemsize).tobytes())
                address = int(ends[-1])


class FairseqIndexStep(PipelineStep):
    """datatrove step: task r makes INDEX/<source>/<split>/<r>.{bin,idx} of every TEXT/<source>/<split>/<r>.jsonl.

    Counts "<source>/<split>/documents", ".../tokens" (each document's eos included) and ".../bytes" (of the text in
    UTF-8).
    """

    name = "🔢 fairseq index"
    type = "🔢 - TOKENIZER"

    def __init__(self, text_folder: str | Path, index_folder: str | Path, tokenizer_path: str | Path):
        super().__init__()
        self.text_folder = str(text_folder)
        self.index_folder = str(index_folder)
        self.tokenizer_path = str(tokenizer_path)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Tokenize this task's files."""
        tokenizer = load_tokenizer(self.tokenizer_path)
        dtype = token_dtype(len(FAIRSEQ_SPECIALS) + len(tokenizer.symbols))
        for path in sorted(Path(self.text_folder).glob(f"*/*/{rank:05d}.jsonl")):
            source_split = path.parent.relative_to(self.text_folder)
            with IndexWriter(Path(self.index_folder) / source_split / path.stem, dtype) as writer:
                for texts in batches(read_texts(path)):
                    with self.track_time("batch"):
                        tokens = 0
                        for ids in tokenizer.encode(texts):
                            writer.add(np.append(ids, EOS))
                            tokens += len(ids) + 1
                    self.stat_update(f"{source_split}/documents", value=len(texts))
                    self.stat_update(f"{source_split}/tokens", value=tokens)
                    self.stat_update(f"{source_split}/bytes", value=sum(len(text.encode()) for text in texts))


def batches(texts: Iterator[str]) -> Iterator[list[str]]:
    """Texts to tokenize at once: at most 64, and no more after they have a window's characters."""
    batch, characters = [], 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) == DOCUMENTS_AT_ONCE or characters >= WINDOW:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def merge_shards(shards: Sequence[Path], prefix: Path, dtype: type) -> None:
    """One index out of several, in the order given."""
    with IndexWriter(prefix, dtype) as writer:
        for shard in shards:
            writer.add_shard(shard)


def _read_sizes(file, count: int) -> Iterator[np.ndarray]:
    while count:
        sizes = np.frombuffer(file.read(4 * min(count, SIZES_AT_ONCE)), dtype="<i4")
        if not len(sizes):
            raise ValueError(f"{file.name} is truncated; delete the work folder and run again")
        yield sizes
        count -= len(sizes)
