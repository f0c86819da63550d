"""Folders that programs write: what goes in comes out, what is bad is counted, and nothing old stays."""

import json
import tarfile

import pytest

from data_prep.images.pack import write_folder
from data_prep.images.settings import ImageSettings
from data_prep.recipe import SourceInfo
from fairseq_mhmoe.data.image_shards import ImageShards


def test_tars_hold_captions_too_and_bad_records_are_counted(tmp_path, draw, tiny_data_dir):
    records = [("0.png", draw(0), " the\tcity "), ("1.png", b"GIF", ["a", "b"]), ("2.png", draw(2), ["", "the river"])]
    records += [("3.png", draw(3), []), ("4.png", draw(4), None)]
    info = SourceInfo("CC0", "nobody")
    manifest = write_folder(tmp_path, {"train": records}, tiny_data_dir, source="drawn", info=info)
    assert manifest["read"] == 7 and manifest["sources"]["drawn"]["accepted"] == 2
    assert manifest["rejected"] == {"caption_empty": 1, "no_caption": 2, "unknown_format": 2}
    assert manifest["license"] == "CC0" and manifest["attribution"] == "nobody"
    with tarfile.open(tmp_path / "drawn/train-00000.tar") as tar:
        assert tar.getnames() == ["0.png", "0.json", "2.png", "2.json"]
        assert json.load(tar.extractfile("0.json")) == {"captions": ["the city"]}


def test_the_same_records_give_the_same_bytes_and_fewer_leave_nothing(tmp_path, draw, contents):
    records = [(f"{number}.png", draw(number), None) for number in range(5)]
    few = ImageSettings(images_per_tar=2)
    write_folder(tmp_path / "a/images", {"train": iter(records), "valid": records[:1]}, settings=few)
    write_folder(tmp_path / "b/images", {"train": records, "valid": records[:1]}, settings=few)
    assert contents(tmp_path / "a/images") == contents(tmp_path / "b/images")
    write_folder(tmp_path / "a/images", {"train": records[:3]}, settings=few)
    assert set(contents(tmp_path / "a/images")) == {
        *("manifest.json", "rejected/images.jsonl", "train.images.npy", "train.names.npy"),
        *("images/train-00000.tar", "images/train-00001.tar"),
    }
    assert len(ImageShards(tmp_path / "a/images", "train")) == 3


def test_wrong_records_are_told(tmp_path, draw):
    with pytest.raises(ValueError, match="splits dev; expected some of train, valid, test"):
        write_folder(tmp_path, {"dev": []})
    with pytest.raises(ValueError, match="0.png has a caption, but no dictionary"):
        write_folder(tmp_path, {"train": [("0.png", draw(0), "text")]})
    with pytest.raises(ValueError, match="no image for training was accepted"):
        write_folder(tmp_path, {"train": [], "valid": [("0.png", draw(0), None)]})
    assert not (tmp_path / "manifest.json").exists()
