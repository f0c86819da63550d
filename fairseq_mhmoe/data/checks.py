"""Look at a prepared folder before fairseq maps it into memory, and say in one ValueError what is wrong with it."""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fairseq.data import Dictionary

from fairseq_mhmoe.data.manifest import MANIFEST, read_manifest

# fairseq's mmap index: magic, version, dtype code, number of items; then sizes (int32) and addresses (int64)
MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQ")
INTEGER_TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16, 9: np.uint32}
BYTES_PER_ITEM = 4 + 8
SCAN_TOKENS = 1 << 24
AGAIN = "prepare the data again"


@dataclass(frozen=True)
class IndexSummary:
    """What the header of an index says: numbers of documents and tokens, the longest document, the type of a token."""

    documents: int
    tokens: int
    longest: int
    dtype: type


def load_dictionary(folder: Path) -> Dictionary:
    """fairseq's Dictionary of a prepared folder; ValueError when folder or file is missing or has no symbols."""
    if not folder.is_dir():
        raise ValueError(f"no data folder {folder}; prepare it, for example with `python -m data_prep.demo_english`")
    path = folder / "dict.txt"
    if not path.is_file():
        raise ValueError(f"no dict.txt in {folder}; found: {_listing(folder)}; {AGAIN}")
    dictionary = Dictionary.load(str(path))
    if len(dictionary) == dictionary.nspecial:
        raise ValueError(f"{path} is empty; {AGAIN}")
    return dictionary


def check_split(folder: Path, split: str, dictionary_folder: Path, dictionary: Dictionary) -> IndexSummary:
    """Check one split's files, and that they were made with this dictionary.

    With a manifest the dictionary's hash and the files' sizes are compared; without one, all tokens are read once.

    Args:
        dictionary_folder: where `dictionary` was loaded from; differs from `folder` for all but the first shard.
    Raises:
        ValueError: a file is missing, empty, truncated, of another format, or written with another vocabulary.
    """
    prefix = folder / split
    summary = read_index(prefix)
    manifest = read_manifest(folder)
    if manifest is None or split not in manifest["splits"]:
        _check_tokens(prefix, summary.dtype, len(dictionary))
        return summary
    sha256 = hashlib.sha256((dictionary_folder / "dict.txt").read_bytes()).hexdigest()
    if sha256 != manifest["dictionary"]["sha256"]:
        raise ValueError(
            f"wrong vocabulary: {folder / MANIFEST} was written with another dictionary than "
            f"{dictionary_folder / 'dict.txt'}; restore the dict.txt that belongs to the data, or {AGAIN}"
        )
    for name, file in manifest["splits"][split]["files"].items():
        if (folder / name).stat().st_size != file["size"]:
            raise ValueError(f"{folder / name} should have {file['size']} bytes, says the manifest; {AGAIN}")
    return summary


def read_index(prefix: Path) -> IndexSummary:
    """Read PREFIX.idx and compare it with the sizes of both files; errors as in `check_split`."""
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


def _check_tokens(prefix: Path, dtype: type, dictionary_size: int) -> None:
    data = prefix.with_name(prefix.name + ".bin")
    tokens = np.memmap(data, dtype=dtype, mode="r")
    # piece by piece, so that no corpus has to fit into memory
    for start in range(0, len(tokens), SCAN_TOKENS):
        part = tokens[start : start + SCAN_TOKENS]
        for token in (int(part.max()), int(part.min())):
            if not 0 <= token < dictionary_size:
                raise ValueError(
                    f"wrong vocabulary: {data} holds token {token}, the dictionary has {dictionary_size} symbols; "
                    f"use the dict.txt that belongs to the data, or {AGAIN}"
                )


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return ", ".join(names[:20]) or "nothing"
