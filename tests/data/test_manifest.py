"""What training and evaluation take from a manifest."""

import pytest

from fairseq_mhmoe.data.manifest import bits_per_byte, read_manifest

MANIFEST = {"splits": {"test": {"tokens": 30, "bytes": 120}, "valid": {"tokens": 5}}}


def test_bits_per_byte_spreads_the_loss_over_the_bytes():
    # 30 tokens of 8 bits each, 120 bytes of text
    assert bits_per_byte(MANIFEST, "test", bits_per_token=8.0) == pytest.approx(2.0)


@pytest.mark.parametrize("split", ["valid", "train"])
def test_a_split_that_was_not_counted_is_an_error(split):
    with pytest.raises(ValueError, match=f"no bytes for split '{split}'"):
        bits_per_byte(MANIFEST, split, 8.0)


def test_a_prepared_folder_has_a_manifest(tiny_data_dir):
    assert set(read_manifest(tiny_data_dir)["splits"]) == {"train", "valid", "test"}


def test_a_folder_may_have_none(tmp_path):
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"dictionary": {}, "splits": {}}', '{"dictionary": 1}'])
def test_a_damaged_manifest_is_an_error(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="manifest.json is damaged"):
        read_manifest(tmp_path)
