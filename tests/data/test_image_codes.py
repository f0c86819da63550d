"""Codes that were computed before are those of the tokenizer, and only for the images, tokenizer and size named."""

import json
import shutil

import numpy as np
import pytest
import torch

from data_prep.images.pack import write_folder
from fairseq_mhmoe.cli import image_codes as program
from fairseq_mhmoe.data.image_codes import CachedCodes, codes_folder
from fairseq_mhmoe.data.image_shards import ImageShards
from fairseq_mhmoe.data.image_transforms import fit_image
from fairseq_mhmoe.vision import load_tokenizer, save_tokenizer
from tests.multimodal_data import caption, draw, make_tokenizer

SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_data_dir):
    """Images of two splits, of which one has two captions, and a tokenizer beside them; not to be written to."""
    folder = tmp_path_factory.mktemp("codes") / "pairs"
    train = [(f"{n}.png", draw(n), [caption(n), caption(n + 1)] if n == 1 else caption(n)) for n in range(7)]
    write_folder(folder, {"train": train, "valid": [("x.png", draw(50), caption(50))]}, tiny_data_dir)
    save_tokenizer(make_tokenizer(8, 24), folder.parent / "tokenizer.pt")
    compute(folder)
    return folder


def compute(folder, *options, size=SIZE, tokenizer="tokenizer.pt"):
    words = [str(folder), "--image-tokenizer", str(folder.parent / tokenizer), "--image-size", str(size)]
    program.main([*words, *options])


@pytest.fixture
def own(folder, tmp_path):
    """A copy of the folder without codes."""
    copied = tmp_path / "pairs"
    shutil.copytree(folder, copied)
    shutil.copy(folder.parent / "tokenizer.pt", tmp_path)
    shutil.rmtree(copied / "codes")
    return copied


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder.parent / "tokenizer.pt")


def test_codes_are_those_of_the_images_without_augmentation(folder, tokenizer):
    shards = ImageShards(folder, "train")
    cached = CachedCodes(folder, "train", tokenizer.fingerprint(), SIZE)
    assert len(cached) == len(shards) == shards.images + 1 == 8
    assert (cached.num_codes, cached.patches) == (24, 16)
    found = set()
    for index in range(len(shards)):
        expected = tokenizer(fit_image(shards.picture(index), SIZE)[None])[0].numpy()
        assert np.array_equal(cached.codes(index), expected) and cached.codes(index).dtype == np.int64
        found |= set(expected.tolist())
    assert len(found) > 5
    assert len(CachedCodes(folder, "valid", tokenizer.fingerprint(), SIZE)) == 1


def test_another_size_tokenizer_or_split_has_no_codes(folder, tokenizer):
    there = rf"there are: train at 32 px by tokenizer {tokenizer.fingerprint()[:12]}"
    with pytest.raises(ValueError, match=rf"no codes of split train at 40 px.*{there}.*--image-size 40"):
        CachedCodes(folder, "train", tokenizer.fingerprint(), 40)
    with pytest.raises(ValueError, match=f"by tokenizer {'0' * 12}; {there}"):
        CachedCodes(folder, "train", "0" * 64, SIZE)
    with pytest.raises(ValueError, match="no split 'test'"):
        CachedCodes(folder, "test", tokenizer.fingerprint(), SIZE)


def test_codes_of_other_images_are_not_taken(own, tokenizer, tiny_data_dir):
    compute(own)
    write_folder(own, {"train": [("0.png", draw(99), caption(0))]}, tiny_data_dir)
    with pytest.raises(ValueError, match="train at 32 px by .* \\(older images\\)"):
        CachedCodes(own, "train", tokenizer.fingerprint(), SIZE)
    compute(own)
    assert len(CachedCodes(own, "train", tokenizer.fingerprint(), SIZE)) == 1


def test_an_interrupted_run_goes_on(own, folder, tokenizer, monkeypatch):
    real, calls = program._codes_of, []

    def failing(images, rows, *rest):
        calls.append(rows.start)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(images, rows, *rest)

    monkeypatch.setattr(program, "_codes_of", failing)
    options = ("--part", "2", "--splits", "train", "--batch-size", "3")
    with pytest.raises(KeyboardInterrupt):
        compute(own, *options)
    with pytest.raises(ValueError, match="there are: none"):
        CachedCodes(own, "train", tokenizer.fingerprint(), SIZE)
    compute(own, *options)
    assert calls == [0, 2, 4, 4, 6]
    compute(own, *options)
    assert len(calls) == 5
    same_place = codes_folder(own, "train", tokenizer.fingerprint(), SIZE).name
    written = (own / "codes" / same_place / "codes.npy").read_bytes()
    assert written == (folder / "codes" / same_place / "codes.npy").read_bytes()
    assert sorted(path.name for path in (own / "codes" / same_place).iterdir()) == ["codes.npy", "meta.json"]


def test_several_processes_share_the_work(own, tokenizer, capsys):
    options = ("--part", "2", "--splits", "train")
    compute(own, *options, "--share", "1/2")
    assert "2 of 4 parts are left to other processes" in capsys.readouterr().out
    with pytest.raises(ValueError, match="there are: none"):
        CachedCodes(own, "train", tokenizer.fingerprint(), SIZE)
    compute(own, *options, "--share", "0/2", "--num-workers", "1")
    assert len(CachedCodes(own, "train", tokenizer.fingerprint(), SIZE)) == 8


def test_a_changed_file_is_noticed(own, tokenizer):
    compute(own)
    place = codes_folder(own, "train", tokenizer.fingerprint(), SIZE)
    meta = json.loads((place / "meta.json").read_text())
    (place / "meta.json").write_text(json.dumps(meta | {"tokenizer": "0" * 64}))
    with pytest.raises(ValueError, match=r"something else than its name \(tokenizer\)"):
        CachedCodes(own, "train", tokenizer.fingerprint(), SIZE)
    (place / "meta.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        CachedCodes(own, "train", tokenizer.fingerprint(), SIZE)
    (place / "meta.json").write_text(json.dumps(meta))
    np.save(place / "codes.npy", np.zeros((3, 16), np.uint16))
    with pytest.raises(ValueError, match=r"holds \[3, 16\] codes, expected \[7, 16\]"):
        CachedCodes(own, "train", tokenizer.fingerprint(), SIZE)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--share", "2/2"], "--share 2/2: expected I/N"),
        (["--share", "x"], "--share x: expected I/N"),
        (["--part", "0"], "--part 0: expected a whole number of 1 or more"),
        (["--splits", "train", "tset"], "no split 'tset'"),
        (["--device", "tpu"], "--device tpu"),
        (["--image-size", "30"], "multiple of 8"),
        (["--image-tokenizer", "none.pt"], "none.pt: no such file"),
    ],
)
def test_wrong_options_are_named(folder, options, message, capsys):
    with pytest.raises(SystemExit) as ended:
        compute(folder, *options)
    assert message in str(ended.value)


def test_more_codes_than_16_bits_have_room():
    assert program.code_type(8192) == np.uint16
    assert program.code_type((1 << 16) + 1) == np.uint32
    assert torch.iinfo(torch.uint16).max == (1 << 16) - 1
