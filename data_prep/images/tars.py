"""Tars of images: read strictly, nothing is skipped in silence; written so that equal content gives equal bytes."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_prep.opening import DamagedFile, compression_of

BLOCK = 512
ZEROS = bytes(BLOCK)
# names and pax records beyond this are no names
MAX_HEADER = 1 << 20
REGULAR = (0x00, ord("0"), ord("7"))
FOLDER, LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL = b"5LKxg"
# links, devices and pipes have no content of their own
EMPTY_TYPES = b"12346"


class Member(NamedTuple):
    """A file in a tar. offset, size: of its content, in bytes. regular: False for links, devices, sparse files."""

    name: str
    offset: int
    size: int
    regular: bool


def read_members(file: BinaryIO, path: Path) -> Iterator[Member]:
    """The members of an uncompressed tar (ustar, GNU's and pax's long names), folders left out.

    The tar must end as tars end, in zeros: so nothing can be lost behind what is no header.

    Args:
        file: of the tar, that can seek. path: for messages.
    Raises:
        DamagedFile: with the position; it comes after the members that stand before the damage.
    """
    end = file.seek(0, os.SEEK_END)
    position, long_name, pax = 0, None, {}
    while True:
        file.seek(position)
        header = file.read(BLOCK)
        if header == ZEROS:
            return _check_end(file, path, position)
        if len(header) < BLOCK:
            what = "ends without tar's end mark" if not header else "ends within a header"
            raise _damaged(path, position, f"the file {what}")
        if position == 0 and compression_of(header):
            raise _damaged(path, 0, "a compressed file, which has no random access; decompress it first")
        name, size, kind = _parse(header, path, position)
        data = position + BLOCK
        if kind in (PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK):
            if size > min(MAX_HEADER, end - data):
                raise _damaged(path, position, f"a header of {size:,} bytes")
            content = file.read(size)
            if kind == LONG_NAME:
                long_name = content.rstrip(b"\0").decode("utf-8", "replace")
            elif kind == PAX:
                pax = _pax(content, path, position)
            position = data + _padded(size)
            continue
        size = pax.get("size", size)
        name = pax.get("path") or long_name or name
        long_name, pax = None, {}
        if kind in EMPTY_TYPES or kind == FOLDER:
            size = 0
        if data + size > end:
            raise _damaged(path, position, f"{name!r} should have {size:,} bytes, {max(0, end - data):,} are there")
        is_folder = kind == FOLDER or (kind in REGULAR and name.endswith("/"))
        if not is_folder:
            yield Member(name, data, size, kind in REGULAR)
        position = data + _padded(size)


class TarWriter:
    """Writes files one after another and knows where they are; the same calls give the same bytes.

    Use as a context manager around a path that `data_prep.files.replacing` gave.
    """

    def __init__(self, path: Path):
        self._file = open(path, "wb")
        self.offset = 0

    def __enter__(self) -> "TarWriter":
        return self

    def __exit__(self, *error) -> None:
        self._file.write(bytes(2 * BLOCK))
        self._file.close()

    def add(self, name: str, content: bytes) -> int:
        """Write a file; the offset of its content in the tar."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o644
        header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        self._file.write(header)
        self._file.write(content)
        self._file.write(bytes(_padded(len(content)) - len(content)))
        start = self.offset + len(header)
        self.offset = start + _padded(len(content))
        return start


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _parse(header: bytes, path: Path, position: int) -> tuple[str, int, int]:
    """Name, size and type of a header block whose checksum is right."""
    try:
        expected = _number(header[148:156])
        size = _number(header[124:136])
    except ValueError:
        raise _damaged(path, position, f"no tar header: {header[:16]!r}") from None
    if expected != sum(header) - sum(header[148:156]) + 8 * 0x20:
        raise _damaged(path, position, f"a tar header with a wrong checksum, or none: {header[:16]!r}")
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    return name.decode("utf-8", "replace"), size, header[156]


def _number(field: bytes) -> int:
    """An octal number, or GNU's binary one; ValueError for others and for what is below zero."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.split(b"\0", 1)[0].strip()
    if not all(0x30 <= digit <= 0x37 for digit in text):
        raise ValueError(f"{field!r} is no octal number")
    return int(text or b"0", 8)


def _pax(content: bytes, path: Path, position: int) -> dict:
    """Path and size out of pax's records `LENGTH KEY=VALUE\\n`."""
    found, start = {}, 0
    try:
        while start < len(content):
            length = int(content[start : content.index(b" ", start)])
            record = content[start : start + length]
            if length < 5 or len(record) < length or record[-1:] != b"\n":
                raise ValueError
            key, _, value = record[record.index(b" ") + 1 : -1].partition(b"=")
            if key == b"path":
                found["path"] = value.decode("utf-8", "replace")
            elif key == b"size":
                found["size"] = int(value)
                if found["size"] < 0:
                    raise ValueError
            start += length
    except ValueError:
        raise _damaged(path, position, "a pax header that is none") from None
    return found


def _check_end(file: BinaryIO, path: Path, position: int) -> None:
    file.seek(position)
    while chunk := file.read(io.DEFAULT_BUFFER_SIZE):
        if chunk.strip(b"\0"):
            raise _damaged(path, position, "something follows behind the tar's end mark; take appended tars apart")


def _damaged(path: Path, position: int, reason: str) -> DamagedFile:
    return DamagedFile(f"{path}: damaged tar at byte {position:,}: {reason}; get the file again")
