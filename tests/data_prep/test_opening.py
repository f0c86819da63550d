"""Compressed input: read to its end whatever it is called, and any damage is an error with file and position."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import tracemalloc
import zipfile

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from data_prep.opening import DamagedFile, compression_of, open_input

TEXT = "".join(f'{{"text": "document {number}"}}\n' for number in range(400)).encode()
COMPRESS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
NAMES = {"gzip": "a.jsonl.gz", "bzip2": "a.jsonl.bz2", "xz": "a.jsonl.xz", "zstd": "a.jsonl.zst"}


def write(folder, content, name="a.jsonl"):
    path = folder / name
    path.write_bytes(content)
    return path


def read(path):
    with open_input(path) as stream:
        return stream.read()


def archive_of(kind):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a.jsonl", TEXT)
    else:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            info = tarfile.TarInfo("a.jsonl")
            info.size = len(TEXT)
            archive.addfile(info, io.BytesIO(TEXT))
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["a.jsonl", "a.gz", "a"])
@pytest.mark.parametrize("compress", [bytes, *COMPRESS.values()], ids=["plain", *COMPRESS])
def test_the_first_bytes_decide_not_the_name(tmp_path, compress, name):
    assert read(write(tmp_path, compress(TEXT), name)) == TEXT


@pytest.mark.parametrize("compression", COMPRESS)
def test_all_streams_of_a_file_are_read(tmp_path, compression):
    compress = COMPRESS[compression]
    # an empty one among them
    parts = [compress(TEXT[:1000]), compress(b""), compress(TEXT[1000:])]
    assert read(write(tmp_path, b"".join(parts))) == TEXT
    assert read(write(tmp_path, compress(b""))) == b""


def test_a_zstd_file_may_begin_with_a_skippable_frame(tmp_path):
    frame = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    assert read(write(tmp_path, frame + COMPRESS["zstd"](TEXT))) == TEXT


@pytest.mark.parametrize("compression", ["gzip", "xz"])
def test_zeros_behind_a_stream_are_padding(tmp_path, compression):
    compress = COMPRESS[compression]
    assert read(write(tmp_path, compress(TEXT) + bytes(9000))) == TEXT
    assert read(write(tmp_path, compress(TEXT) + bytes(8) + compress(b"more"))) == TEXT + b"more"


@pytest.mark.parametrize("compression", COMPRESS)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_off_anywhere_is_an_error(tmp_path_factory, compression, share):
    content = COMPRESS[compression](TEXT)
    path = write(tmp_path_factory.mktemp("cut"), content[: int(share * len(content))], NAMES[compression])
    with pytest.raises(DamagedFile, match=rf"{NAMES[compression]}: .*bytes?.*; fetch the file again"):
        read(path)


@pytest.mark.parametrize("compression", COMPRESS)
def test_something_else_behind_a_stream_is_an_error(tmp_path, compression):
    path = write(tmp_path, COMPRESS[compression](TEXT) + b"<html>no such file</html>")
    with pytest.raises(DamagedFile, match="about byte"):
        read(path)


@pytest.mark.parametrize("compression", COMPRESS)
@given(position=st.floats(0.1, 0.9), bit=st.integers(0, 7))
def test_a_changed_bit_is_an_error_or_changes_nothing(tmp_path_factory, compression, position, bit):
    content = bytearray(COMPRESS[compression](TEXT))
    content[int(position * len(content))] ^= 1 << bit
    path = write(tmp_path_factory.mktemp("bit"), content)
    try:
        assert read(path) == TEXT
    except DamagedFile as error:
        assert "a.jsonl" in str(error)


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("compress", [bytes, *COMPRESS.values()], ids=["plain", *COMPRESS])
def test_an_archive_is_refused(tmp_path, kind, compress):
    with pytest.raises(DamagedFile, match=f"a.jsonl: byte 0: .*{kind}.*unpack it"):
        open_input(write(tmp_path, compress(archive_of(kind))))


@pytest.mark.parametrize("outer", COMPRESS)
@pytest.mark.parametrize("inner", COMPRESS)
def test_a_second_compression_is_refused(tmp_path, outer, inner):
    with pytest.raises(DamagedFile, match=f"{outer} around {inner}, expected text"):
        open_input(write(tmp_path, COMPRESS[outer](COMPRESS[inner](TEXT))))


def test_text_that_begins_like_bzip2_is_text(tmp_path):
    assert compression_of(b"BZh1 is a name") is None
    assert read(write(tmp_path, b"BZh9 is a name")) == b"BZh9 is a name"


def test_a_plain_file_may_be_empty(tmp_path):
    assert read(write(tmp_path, b"")) == b""


@pytest.mark.parametrize("compression", ["gzip", "zstd"])  # the others need some million bytes for their tables
def test_much_content_takes_little_memory(tmp_path, compression):
    content = random.Random(0).randbytes(2 << 20).hex().encode()
    path = write(tmp_path, COMPRESS[compression](content))
    del content
    tracemalloc.start()
    with open_input(path) as stream:
        size = sum(len(part) for part in iter(lambda: stream.read(1 << 16), b""))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 4 << 20 and peak < 1_500_000
