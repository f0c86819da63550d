"""Look at a prepared folder before it is read, and say in one ValueError what is wrong with it."""

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from fairseq.data import Dictionary

from fairseq_mhmoe.data.manifest import MANIFEST, file_sizes

# fairseq's mmap index: magic, version, dtype code, number of items; then sizes (int32) and addresses (int64)
MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQ")
INTEGER_TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16, 9: np.uint32}
BYTES_PER_ITEM = 4 + 8
SCAN_TOKENS = 1 << 22
DICTIONARY = "dict.txt"
# where a data folder of the original program lists its text files
ORIGINAL = "json/train.json"
AGAIN = "prepare the data again"


@dataclass(frozen=True)
class IndexSummary:
    """What the header of an index says: numbers of documents and tokens, the longest document, the type of a token."""

    documents: int
    tokens: int
    longest: int
    dtype: type


def load_dictionary(folder: Path, path: Path | None = None) -> Dictionary:
    """fairseq's Dictionary of a prepared folder, or of another file; ValueError when it is missing or empty."""
    if not folder.is_dir():
        raise ValueError(f"no data folder {folder}; prepare it, for example with `python -m data_prep.demo_english`")
    if path is None and not (folder / DICTIONARY).is_file():
        if (folder / ORIGINAL).is_file():
            raise ValueError(
                f"{folder} holds text ({ORIGINAL}), not tokens; prepare it with `python -m data_prep --original-folder "
                f"{folder} --output DIR` and train on DIR"
            )
        raise ValueError(f"no {DICTIONARY} in {folder}; found: {_listing(folder)}; {AGAIN}, or give --dict-path")
    if path is not None and not path.is_file():
        raise ValueError(f"--dict-path: no file {path}")
    path = path or folder / DICTIONARY
    try:
        dictionary = Dictionary.load(str(path))
    except (ValueError, RuntimeError, UnicodeError) as error:
        raise ValueError(f"{path} is no dictionary of fairseq (lines `symbol count`): {error}") from None
    if len(dictionary) == dictionary.nspecial:
        raise ValueError(f"{path} is empty; {AGAIN}")
    return dictionary


class FolderCheck:
    """Checks of the index files of one prepared folder, against its manifest and a dictionary.

    Args:
        folder: the prepared folder. manifest: its manifest, None without one.
        dictionary_path: file that `dictionary` was loaded from; it need not lie in `folder`.
    """

    def __init__(self, folder: Path, manifest: dict | None, dictionary_path: Path, dictionary: Dictionary):
        self.folder = folder
        self.dictionary_path = dictionary_path
        self.dictionary_size = len(dictionary)
        self._manifest = manifest
        self._sizes = file_sizes(manifest) if manifest is not None else {}

    def check(self, prefix: Path) -> IndexSummary:
        """Check PREFIX.idx and PREFIX.bin, and that they were made with the dictionary.

        Where the manifest lists the files, the dictionary's hash and the files' sizes are compared; where it does not,
        all tokens are read once.

        Raises:
            ValueError: a file is missing, empty, truncated, of another format, or written with another vocabulary.
        """
        summary = read_index(prefix)
        files = [prefix.with_name(prefix.name + ending) for ending in (".bin", ".idx")]
        listed = [self._listed_size(path) for path in files]
        if None in listed:
            _check_tokens(prefix, summary, self.dictionary_size)
            return summary
        self.check_dictionary()
        for path, size in zip(files, listed, strict=True):
            if path.stat().st_size != size:
                raise ValueError(f"{path} should have {size} bytes, says the manifest; {AGAIN}")
        return summary

    def check_dictionary(self) -> None:
        """ValueError where the manifest, if there is one, names another dictionary."""
        if self._manifest is not None and self._dictionary_hash != self._manifest["dictionary"]["sha256"]:
            raise ValueError(
                f"wrong vocabulary: {self.folder / MANIFEST} was written with another dictionary than "
                f"{self.dictionary_path}; restore the dict.txt that belongs to the data, or {AGAIN}"
            )

    def _listed_size(self, path: Path) -> int | None:
        inside = path.is_relative_to(self.folder)
        return self._sizes.get(path.relative_to(self.folder).as_posix()) if inside else None

    @cached_property
    def _dictionary_hash(self) -> str:
        return hashlib.sha256(self.dictionary_path.read_bytes()).hexdigest()


def read_index(prefix: Path) -> IndexSummary:
    """Read PREFIX.idx and compare it with the sizes of both files; errors as in `FolderCheck.check`."""
    index, data = (prefix.with_name(prefix.name + ending) for ending in (".idx", ".bin"))
    if not index.is_file() or not data.is_file():
        missing = " and ".join(path.name for path in (index, data) if not path.is_file())
        raise ValueError(
            f"no split {prefix.name!r} in {prefix.parent}: {missing} missing; found: {_listing(prefix.parent)}"
        )
    with open(index, "rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        raise ValueError(f"{index} is {'truncated' if header else 'empty'}; {AGAIN}")
    magic, version, type_code, documents = HEADER.unpack(header)
    if magic != MAGIC or version != 1 or type_code not in INTEGER_TYPES:
        raise ValueError(f"{index} is no mmap index of fairseq; {AGAIN}")
    if documents == 0:
        raise ValueError(f"{index} holds no documents; {AGAIN}")
    expected = HEADER.size + documents * BYTES_PER_ITEM
    if index.stat().st_size != expected:
        raise ValueError(
            f"{index} is truncated or damaged: {documents} documents need {expected} bytes, "
            f"it has {index.stat().st_size}; {AGAIN}"
        )
    dtype = INTEGER_TYPES[type_code]
    sizes = np.memmap(index, dtype=np.int32, mode="r", offset=HEADER.size, shape=(documents,))
    tokens = int(sizes.sum(dtype=np.int64))
    if sizes.min() < 0 or tokens == 0:
        raise ValueError(f"{index} holds no tokens, or documents of negative length; {AGAIN}")
    expected = tokens * np.dtype(dtype).itemsize
    last_address = int(np.fromfile(index, dtype=np.int64, offset=index.stat().st_size - 8)[0])
    if last_address + int(sizes[-1]) * np.dtype(dtype).itemsize != expected:
        raise ValueError(f"{index} is damaged: its addresses don't fit its sizes; {AGAIN}")
    if data.stat().st_size != expected:
        raise ValueError(
            f"{data} is truncated or belongs to another index: {tokens} tokens need {expected} bytes, "
            f"it has {data.stat().st_size}; {AGAIN}"
        )
    return IndexSummary(documents, tokens, int(sizes.max()), dtype)


def _check_tokens(prefix: Path, summary: IndexSummary, dictionary_size: int) -> None:
    data = prefix.with_name(prefix.name + ".bin")
    # piece by piece and not mapped, so that no corpus has to fit into memory
    with open(data, "rb") as file:
        for _ in range(0, summary.tokens, SCAN_TOKENS):
            part = np.fromfile(file, dtype=summary.dtype, count=SCAN_TOKENS)
            for token in (int(part.max()), int(part.min())):
                if not 0 <= token < dictionary_size:
                    raise ValueError(
                        f"wrong vocabulary: {data} holds token {token}, the dictionary has {dictionary_size} symbols; "
                        f"use the dict.txt that belongs to the data, or {AGAIN}"
                    )


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return ", ".join(names[:20]) or "nothing"
