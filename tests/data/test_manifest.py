"""What training and evaluation take from a manifest."""

import json

import pytest

from fairseq_mhmoe.data.manifest import bytes_per_token, read_manifest
from fairseq_mhmoe.data.sources import Source, find_sources

MANIFEST = {"splits": {"test": {"tokens": 30, "bytes": 120}, "valid": {"tokens": 5}}}


def test_bytes_per_token_are_known_where_both_were_counted():
    assert bytes_per_token(MANIFEST, "test") == 4
    assert bytes_per_token(MANIFEST, "valid") is bytes_per_token(MANIFEST, "train") is None


def test_a_prepared_folder_has_a_manifest(tiny_data_dir):
    assert set(read_manifest(tiny_data_dir)["splits"]) == {"train", "valid", "test"}


def test_a_folder_may_have_none(tmp_path):
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"dictionary": {}, "splits": {}}', '{"dictionary": 1}'])
def test_a_damaged_manifest_is_an_error(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="manifest.json is damaged"):
        read_manifest(tmp_path)


def test_a_manifest_of_before_there_were_several_sources_is_of_one(tmp_path):
    """`sources` was a list of input files; the rest is as it was."""
    old = MANIFEST | {"name": "demo", "dictionary": {"sha256": "-"}, "sources": [{"file": "dump.xml", "size": 1}]}
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    manifest = read_manifest(tmp_path)
    (tmp_path / "train.idx").touch()
    assert find_sources(tmp_path, manifest) == [Source("demo", tmp_path)]
    assert bytes_per_token(manifest, "test") == 4
