"""Random access to prepared images: the right bytes, from any process, or an error that names the place."""

import io
import json
import os
import pickle
import resource
import shutil

import numpy as np
import pytest
from PIL import Image

from data_prep.images.captions import CaptionEncoder
from data_prep.images.pack import write_folder
from data_prep.images.settings import ImageSettings
from fairseq_mhmoe.data.image_shards import ImageShards


def png(number):
    content = io.BytesIO()
    pixels = np.random.default_rng(number).integers(256, size=(12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


CAPTIONS = [["the city", "the river and the island"], ["a group of people"], ["was", "is", "the city"]]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, tiny_data_dir):
    folder = tmp_path_factory.mktemp("shards") / "pairs"
    records = [(f"é/{number}.png", png(number), captions) for number, captions in enumerate(CAPTIONS)]
    valid = [("v.png", png(9), "the state")]
    write_folder(folder, {"train": records, "valid": valid}, tiny_data_dir, ImageSettings(images_per_tar=2), "set")
    return folder


@pytest.fixture
def copied(pairs, tmp_path):
    return shutil.copytree(pairs, tmp_path / "copied")


def test_a_record_is_an_image_and_one_caption(pairs, tiny_data_dir):
    shards = ImageShards(pairs, "train")
    assert len(shards) == 6 and shards.images == 3 and shards.has_captions
    encode = CaptionEncoder(tiny_data_dir).encode
    rows = [row for row, captions in enumerate(CAPTIONS) for _ in captions]
    for index, (row, caption) in enumerate(zip(rows, sum(CAPTIONS, []), strict=True)):
        tokens = shards.caption(index)
        assert tokens.dtype == np.int64 and tokens.tolist() == encode([caption])[0].tolist()
        assert shards.caption_sizes[index] == len(tokens) and shards.image_row(index) == row
        assert shards.image(index) == png(row) and shards.picture(index).size == (16, 12)
        assert shards.name(index) == f"set/train-0000{row // 2}.tar: é/{row}.png"
    digest = json.loads((tiny_data_dir / "manifest.json").read_text())["dictionary"]["sha256"]
    assert shards.dictionary_sha256 == digest
    assert len(ImageShards(pairs, "valid")) == 1
    for index in (-1, 6):
        for method in (shards.image, shards.caption, shards.name):
            with pytest.raises(IndexError):
                method(index)


def test_images_without_captions(tmp_path):
    write_folder(tmp_path, {"train": [(f"{number}.png", png(number), None) for number in range(3)]})
    shards = ImageShards(tmp_path, "train")
    assert (len(shards), shards.has_captions, shards.caption_sizes, shards.dictionary_sha256) == (3, False, None, None)
    assert [shards.image(index) for index in (2, 0, 1)] == [png(2), png(0), png(1)]
    with pytest.raises(ValueError, match="has images without captions; prepare it with --dictionary"):
        shards.caption(0)


def test_copies_in_other_processes_read_the_same(pairs):
    shards = ImageShards(pairs, "train")
    assert shards.image(5) == png(2)  # opens a file that the forks share
    assert pickle.loads(pickle.dumps(shards)).image(3) == png(2)
    assert len(pickle.dumps(shards)) < 2000
    children = []
    for _ in range(3):
        if not (child := os.fork()):
            right = all(shards.image(i) == png(shards.image_row(i)) for _ in range(50) for i in (5, 0, 2))
            os._exit(0 if right else 1)
        children.append(child)
    right = all(shards.image(i) == png(shards.image_row(i)) for _ in range(50) for i in (0, 5, 2))
    assert right and [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


def test_few_files_are_open_however_many_tars_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr("fairseq_mhmoe.data.image_shards.OPEN_TARS", 3)
    records = [(f"{number}.png", png(number), None) for number in range(9)]
    write_folder(tmp_path, {"train": records}, settings=ImageSettings(images_per_tar=1))
    before = len(os.listdir("/proc/self/fd"))
    shards = ImageShards(tmp_path, "train")
    of_index = len(os.listdir("/proc/self/fd"))
    assert [shards.image(index) for index in (*range(9), 4)] == [png(index) for index in (*range(9), 4)]
    assert len(os.listdir("/proc/self/fd")) == of_index + 3
    del shards
    assert len(os.listdir("/proc/self/fd")) == before


def test_memory_does_not_grow_with_the_images_read(tmp_path):
    large = [(f"{n}.png", png(n) + bytes(1 << 20), None) for n in range(40)]  # bytes behind the picture are allowed
    write_folder(tmp_path, {"train": large})
    shards = ImageShards(tmp_path, "train")
    shards.image(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in range(40):
        assert len(shards.image(index)) > 1 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10  # KiB


def test_a_changed_byte_of_an_image_is_found_when_it_is_read(copied):
    entry = np.load(copied / "train.images.npy")[1]
    with open(copied / "set/train-00000.tar", "r+b") as tar:
        tar.seek(int(entry["offset"]) + 60)
        byte = tar.read(1)
        tar.seek(-1, os.SEEK_CUR)
        tar.write(bytes([byte[0] ^ 1]))
    shards = ImageShards(copied, "train")
    assert shards.image(0) == png(0)
    with pytest.raises(
        ValueError, match=r"set/train-00000.tar: é/1.png .*: the image has changed since it was indexed"
    ):
        shards.image(2)


def test_a_tar_that_is_cut_off_while_it_is_used(copied):
    shards = ImageShards(copied, "train")
    os.truncate(copied / "set/train-00001.tar", 600)
    with pytest.raises(ValueError, match=r"train-00001.tar: é/2.png .*: the tar ends after 88 of "):
        shards.image(3)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json in .*: no prepared image folder"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 2}'), "of kind None, format 2; expected 'im"),
        (lambda folder: (folder / "train.rows.npy").unlink(), "train.rows.npy is missing"),
        (lambda folder: os.truncate(folder / "train.tokens.npy", 130), "train.tokens.npy has 130 bytes, the man"),
        (lambda folder: (folder / "set/train-00001.tar").unlink(), r"train-00001.tar is missing, .* link them to"),
        (lambda folder: os.truncate(folder / "set/train-00001.tar", 9), "train-00001.tar has 9 bytes, "),
    ],
)
def test_a_folder_that_is_not_what_its_manifest_says(copied, damage, message):
    damage(copied)
    with pytest.raises(ValueError, match=message):
        ImageShards(copied, "train")


def test_a_split_that_is_not_there(pairs):
    with pytest.raises(ValueError, match="no split 'dev' in .*; there are train, valid"):
        ImageShards(pairs, "dev")
