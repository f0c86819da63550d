"""Tars are read as Python's tarfile reads them, strictly: whatever bytes there are, members or one DamagedFile."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.images.tars import TarWriter, read_members
from data_prep.opening import DamagedFile

PATH = Path("some.tar")
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def tar_of(files, format=tarfile.GNU_FORMAT):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


def read(content):
    file = io.BytesIO(content)
    return [(member.name, content[member.offset : member.offset + member.size]) for member in read_members(file, PATH)]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=140).filter(
    lambda name: name not in (".", "..")
)
FILES = st.lists(st.tuples(NAMES, st.binary(max_size=1100)), max_size=4)


@given(FILES, st.sampled_from(FORMATS[1:]))
def test_members_are_those_of_tarfile(files, format):
    assert read(tar_of(files, format)) == files


@given(FILES)
def test_what_is_written_is_read_again(tmp_path_factory, files):
    path = tmp_path_factory.getbasetemp() / "written.tar"
    with TarWriter(path) as tar:
        offsets = [tar.add(name, data) for name, data in files]
    content = path.read_bytes()
    assert read(content) == files and [member.offset for member in read_members(io.BytesIO(content), PATH)] == offsets
    with tarfile.open(path) as tar:
        assert [(info.name, tar.extractfile(info).read()) for info in tar] == files


def test_long_paths_in_ustar_links_and_folders(tmp_path):
    name = "/".join(["folder"] * 20) + "/picture.jpg"
    assert read(tar_of([(name, b"abc")], tarfile.USTAR_FORMAT)) == [(name, b"abc")]
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for kind, of in ((tarfile.DIRTYPE, "folder"), (tarfile.SYMTYPE, "link.jpg"), (tarfile.FIFOTYPE, "pipe.jpg")):
            info = tarfile.TarInfo(of)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    members = list(read_members(io.BytesIO(content.getvalue()), PATH))
    assert [(member.name, member.regular) for member in members] == [("link.jpg", False), ("pipe.jpg", False)]


GOOD = tar_of([("a.jpg", b"1" * 600), ("b.jpg", b"2" * 100)])


@pytest.mark.parametrize(
    "content, position, message, before",
    [
        (GOOD[: 512 + 300], 0, "'a.jpg' should have 600 bytes, 300 are there", 0),
        (GOOD[: 1536 + 512 + 50], "1,536", "'b.jpg' should have 100 bytes, 50 are there", 1),
        (GOOD[: 1536 + 200], "1,536", "ends within a header", 1),
        (GOOD[:1536], "1,536", "ends without tar's end mark", 1),
        (GOOD[:1536] + b"x" + GOOD[1537:], "1,536", "wrong checksum, or none", 1),
        (GOOD + GOOD, "2,560", "something follows behind the tar's end mark", 2),
        (b"", 0, "ends without tar's end mark", 0),
        (b"\x1f\x8b\x08" + bytes(600), 0, "a compressed file, which has no random access", 0),
        (b"no tar at all" * 100, 0, "no tar header: b'no tar at all", 0),
    ],
)
def test_damage_is_told_with_its_place_after_what_is_good(content, position, message, before):
    members, found = read_members(io.BytesIO(content), PATH), []
    with pytest.raises(DamagedFile) as error:
        for member in members:
            found.append(member)
    assert len(found) == before
    assert f"some.tar: damaged tar at byte {position}: " in str(error.value) and message in str(error.value)


SAMPLES = [tar_of([("a" * 120 + ".jpg", b"1" * 600), ("é.txt", b"2")], format) for format in FORMATS[1:]]
CHANGES = st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=5)


@settings(max_examples=200)
@given(st.sampled_from(SAMPLES), CHANGES, st.floats(0, 2))
def test_changed_tars_are_read_to_their_end_or_are_damaged(content, changes, length):
    changed = bytearray(content)
    for place, value in changes:
        changed[int(place * 3000)] = value  # where the headers are
    changed = bytes(changed[: int(len(changed) * length)])
    try:
        for member in read_members(io.BytesIO(changed), PATH):
            assert 512 <= member.offset <= member.offset + member.size <= len(changed)
    except DamagedFile:
        pass


@given(st.binary(max_size=2000))
def test_any_bytes_end(content):
    with pytest.raises(DamagedFile):
        read(content + b"x")
