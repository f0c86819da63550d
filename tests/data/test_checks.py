"""Bad data gives one clear ValueError before anything is mapped into memory."""

import json
import shutil
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.fairseq_index import IndexWriter
from fairseq_mhmoe.data import checks
from fairseq_mhmoe.data.checks import FolderCheck, load_dictionary, read_index
from fairseq_mhmoe.data.manifest import read_manifest


@pytest.fixture
def folder(tmp_path, tiny_data_dir):
    """A copy of the prepared folder, to be damaged."""
    target = tmp_path / "data"
    target.mkdir()
    for path in tiny_data_dir.iterdir():
        if path.is_file():
            shutil.copyfile(path, target / path.name)
    return target


def check(folder, split="train"):
    dictionary = load_dictionary(folder)
    return FolderCheck(folder, read_manifest(folder), folder / "dict.txt", dictionary).check(folder / split)


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def replace_header(path, position, value):
    content = path.read_bytes()
    path.write_bytes(content[:position] + value + content[position + len(value) :])


def write_index(prefix, documents, dtype=np.uint16):
    with IndexWriter(prefix, dtype) as writer:
        for tokens in documents:
            writer.add(np.array(tokens))


def no_tokens(folder):
    write_index(folder / "train", [[], []])


def negative_length(folder):
    replace_header(folder / "train.idx", 26, struct.pack("<i", -1))


def more_data(folder):
    (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes() + b"\0\0")


DAMAGES = {
    "no split": (
        lambda f: [p.unlink() for p in f.glob("train.*")],
        "no split 'train' in .*train.idx and train.bin missing",
    ),
    "no data": (lambda f: (f / "train.bin").unlink(), "train.bin missing; found: dict.txt, manifest.json, spm.model"),
    "no index": (lambda f: (f / "train.idx").unlink(), "train.idx missing"),
    "empty index": (lambda f: cut(f / "train.idx", 0), "train.idx is empty"),
    "truncated header": (lambda f: cut(f / "train.idx", 20), "train.idx is truncated"),
    "truncated index": (lambda f: cut(f / "train.idx", -4), "train.idx is truncated or damaged"),
    "empty data": (lambda f: cut(f / "train.bin", 0), "train.bin is truncated or belongs to another index"),
    "truncated data": (lambda f: cut(f / "train.bin", -2), "train.bin is truncated or belongs to another index"),
    "too much data": (more_data, "train.bin is truncated or belongs to another index"),
    "other format": (lambda f: replace_header(f / "train.idx", 0, b"TNTIDX\0\0"), "no mmap index of fairseq"),
    "other version": (lambda f: replace_header(f / "train.idx", 9, b"\x02"), "no mmap index of fairseq"),
    "floating point": (lambda f: replace_header(f / "train.idx", 17, b"\x06"), "no mmap index of fairseq"),
    "no documents": (lambda f: write_index(f / "train", []), "train.idx holds no documents"),
    "no tokens": (no_tokens, "train.idx holds no tokens"),
    "negative length": (negative_length, "documents of negative length"),
    "not what the manifest says": (lambda f: write_index(f / "train", [[5, 2]]), "says the manifest"),
    "other dictionary": (lambda f: (f / "dict.txt").write_text("a 1\n"), "wrong vocabulary: .*another dictionary"),
    "empty dictionary": (lambda f: cut(f / "dict.txt", 0), "dict.txt is empty"),
    "no dictionary": (lambda f: (f / "dict.txt").unlink(), "no dict.txt in .*found: manifest.json"),
    "no folder": (shutil.rmtree, "no data folder"),
    "damaged manifest": (lambda f: cut(f / "manifest.json", 50), "manifest.json is damaged"),
}


@pytest.mark.parametrize("damage, message", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        check(folder)


def test_a_whole_folder_passes(folder):
    counts = json.loads((folder / "manifest.json").read_text())["splits"]
    for split, expected in counts.items():
        summary = check(folder, split)
        assert (summary.documents, summary.tokens) == (expected["documents"], expected["tokens"])
        assert 0 < summary.longest < summary.tokens and summary.dtype is np.uint16


def test_a_folder_without_manifest_passes(folder):
    (folder / "manifest.json").unlink()
    assert check(folder).documents > 0


@pytest.mark.parametrize("token", [320, 65499])
def test_without_a_manifest_every_token_is_looked_at(folder, monkeypatch, token):
    (folder / "manifest.json").unlink()
    monkeypatch.setattr(checks, "SCAN_TOKENS", 7)
    write_index(folder / "train", [[5] * 20, [6] * 20 + [token], [5] * 9])
    with pytest.raises(ValueError, match=f"wrong vocabulary: .*train.bin holds token {token}, the dictionary has 320"):
        check(folder)
    write_index(folder / "train", [[5] * 20, [6] * 20 + [319], [5] * 9])
    check(folder)


def test_negative_tokens_are_found(folder):
    (folder / "manifest.json").unlink()
    write_index(folder / "train", [[5, -3, 2]], np.int32)
    with pytest.raises(ValueError, match="holds token -3"):
        check(folder)


def test_a_split_that_the_manifest_lacks_is_looked_at(folder):
    write_index(folder / "train1", [[5, 400, 2]])
    with pytest.raises(ValueError, match="holds token 400"):
        check(folder, "train1")


@given(data=st.data())
def test_any_other_index_file_is_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("index")
    write_index(folder / "train", [[5, 6, 2], [7, 2]])
    content = (folder / "train.idx").read_bytes()
    position = data.draw(st.integers(0, len(content)))
    removed, inserted = data.draw(st.integers(0, 8)), data.draw(st.binary(max_size=8))
    (folder / "train.idx").write_bytes(content[:position] + inserted + content[position + removed :])
    try:
        summary = read_index(folder / "train")
    except ValueError as error:
        assert "train" in str(error)
    else:
        assert summary.tokens * np.dtype(summary.dtype).itemsize == (folder / "train.bin").stat().st_size
