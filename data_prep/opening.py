"""Open an input file for streaming; its first bytes tell what compressed it, and damage is never passed over."""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

# What is decompressed at once: of a file of zeros, 4 KiB become 130 MB.
CHUNK = 1 << 12
BUFFER = 1 << 18
# The longest window that zstd --ultra --long=31 writes.
ZSTD_WINDOW = 1 << 31
TAR_MAGIC = (257, b"ustar")

COMPRESSIONS: dict[str, tuple[bytes, Callable[[], Any]]] = {
    "gzip": (b"\x1f\x8b\x08", lambda: zlib.decompressobj(wbits=31)),
    "bzip2": (b"BZh", bz2.BZ2Decompressor),
    "xz": (b"\xfd7zXZ\x00", lzma.LZMADecompressor),
    "zstd": (b"\x28\xb5\x2f\xfd", lambda: zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()),
}
ENDINGS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zstd": "zstd"}
ARCHIVES = {
    "zip": b"PK\x03\x04",
    "7z": b"7z\xbc\xaf\x27\x1c",
    "rar": b"Rar!\x1a\x07",
    "parquet": b"PAR1",
}
# bzip2's block, or its end where there is none; "BZh" alone may be text
BZIP2_BLOCKS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")
# skippable frames, which pzstd and seekable zstd put in front
ZSTD_SKIPPABLE = tuple(bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16))


class DamagedFile(ValueError):
    """An input file that cannot be read to its end; the message names the file, the position and what to do."""


def open_input(path: Path) -> BinaryIO:
    """The file's content, decompressed where its first bytes are those of gzip, bzip2, xz or zstd; nothing is skipped.

    Files of several streams or frames one after another are read to their end. A file that is not compressed is read
    as it is, whatever its name says.

    Raises:
        DamagedFile: the file is an archive or holds one, or is empty though its name is that of a compressed file;
            while reading: the compressed data are cut off, changed, or followed by something else.
        OSError: the file cannot be opened.
    """
    file = open(path, "rb", buffering=BUFFER)
    try:
        head = file.peek(300)
        compression = compression_of(head)
        if compression is None:
            _refuse_cut_off(path, head)
            _refuse_archive(path, head, inside="")
            return file
        content = _Decompressed(file, compression, str(path))
        _refuse_archive(path, content.head(300), inside=compression)
        return io.BufferedReader(content, BUFFER)
    except BaseException:
        file.close()
        raise


def compression_of(head: bytes) -> str | None:
    """Name of the compression that a file with these first bytes has, or None."""
    for name, (magic, _) in COMPRESSIONS.items():
        if head.startswith(magic):
            return None if name == "bzip2" and not head[4:].startswith(BZIP2_BLOCKS) else name
    return "zstd" if head.startswith(ZSTD_SKIPPABLE) else None


def _refuse_cut_off(path: Path, head: bytes) -> None:
    compression = ENDINGS.get(path.suffix.lower())
    if compression and len(head) < 10 and COMPRESSIONS[compression][0].startswith(head[:3]):
        state = "cut off after" if head else "empty:"
        raise DamagedFile(f"{path}: {state} {len(head)} bytes, expected {compression} data; fetch the file again")


def _refuse_archive(path: Path, head: bytes, inside: str) -> None:
    offset, magic = TAR_MAGIC
    found = [name for name, archive in ARCHIVES.items() if head.startswith(archive)]
    if head[offset:].startswith(magic):
        found = ["tar"]
    if inside and (second := compression_of(head)):
        found = [second]
    if found:
        kind, where = found[0], f"{inside} around {found[0]}" if inside else f"a {found[0]} file"
        remedy = "convert it to JSON lines" if kind == "parquet" else "unpack it and name the files that are in it"
        raise DamagedFile(f"{path}: byte 0: {where}, expected text, or text in one compression; {remedy}")


class _Decompressed(io.RawIOBase):
    """Decompressed bytes of a file that may hold several streams; memory for one chunk of each side."""

    def __init__(self, file: BinaryIO, compression: str, name: str):
        super().__init__()
        self._file = file
        self._compression = compression
        self._name = name
        self._start = COMPRESSIONS[compression][1]
        self._stream = self._start()
        self._between = False  # a stream has ended and none has begun
        self._input = b""
        self._read = 0  # bytes taken from the file
        self._output = b""

    def readable(self) -> bool:
        return True

    def head(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end, without taking them."""
        while len(self._output) < size and self._more():
            pass
        return self._output[:size]

    def readinto(self, buffer) -> int:
        while not self._output and self._more():
            pass
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = memoryview(self._output)[size:] if size < len(self._output) else b""
        return size

    def _more(self) -> bool:
        """Decompress a chunk to the end of `_output`; False at the end of the file."""
        if not self._input:
            self._input = self._file.read(CHUNK)
            self._read += len(self._input)
            if not self._input and self._between:
                return False
            if not self._input:
                raise self._damage("the file ends before the data do")
        if self._between:
            self._input = self._input.lstrip(b"\0")  # padding, which gzip and xz allow
            if not self._input:
                return True
        try:
            self._output = bytes(self._output) + self._stream.decompress(self._input)
        except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
            raise self._damage(str(error)) from None
        self._between = self._stream.eof
        self._input = b""
        if self._between:
            self._input = self._stream.unused_data
            self._stream = self._start()
        return True

    def _damage(self, reason: str) -> DamagedFile:
        return DamagedFile(
            f"{self._name}: damaged {self._compression} data at about byte {self._read:,} of the compressed file: "
            f"{reason}; fetch the file again"
        )

    def close(self) -> None:
        self._file.close()
        super().close()
