"""The program that trains a visual tokenizer: what it writes, repeats and refuses."""

import io
import json

import numpy as np
import pytest
import torch

from data_prep.images.pack import write_folder
from fairseq_mhmoe.cli import image_sources
from fairseq_mhmoe.cli import train_image_tokenizer as program
from fairseq_mhmoe.vision import load_tokenizer
from tests.multimodal_data import draw

OPTIONS = "--image-size 32 --patch-size 8 --codes 12 --code-dim 4 --width 16 --steps 12 --batch-size 6".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """20 image files at two depths, one of which is no image; not to be written to."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "deep").mkdir()
    for number in range(19):
        (folder / ("deep" if number % 2 else ".") / f"{number:02}.png").write_bytes(draw(number))
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained") / "tokenizer.pt"
    program.main([str(folder), str(output), *OPTIONS])
    return output


def test_tokenizer_report_and_picture_are_written(trained):
    from PIL import Image

    tokenizer = load_tokenizer(trained)
    assert (tokenizer.patch_size, tokenizer.num_codes, tokenizer.image_size) == (8, 12, 32)
    report = json.loads(trained.with_suffix(".json").read_text())
    assert report["fingerprint"] == tokenizer.fingerprint()
    assert report["images"] == 17 and report["held_out"]["images"] == 2 and report["refused"] == {}
    assert report["settings"]["training"]["steps"] == 12 and report["settings"]["model"]["code_dim"] == 4
    assert 1 <= report["held_out"]["perplexity"] <= report["held_out"]["used"] <= 12
    picture = Image.open(trained.with_suffix(".png"))
    assert picture.size == (8 * 32, 2 * 32)  # one row of images and one of reconstructions
    assert sorted(path.name for path in trained.parent.iterdir()) == [
        "tokenizer.json", "tokenizer.png", "tokenizer.pt"
    ]  # fmt: skip


def test_the_same_again_is_not_done_again(trained, folder, capsys):
    before = trained.stat().st_mtime_ns
    program.main([str(folder), str(trained), *OPTIONS])
    assert "is there, made with the same options" in capsys.readouterr().out
    assert trained.stat().st_mtime_ns == before


def test_other_options_or_a_damaged_file_are_trained_anew(trained, folder, tmp_path, capsys):
    output = tmp_path / "tokenizer.pt"
    for suffix in (".pt", ".json", ".png"):
        output.with_suffix(suffix).write_bytes(trained.with_suffix(suffix).read_bytes())
    output.write_bytes(output.read_bytes()[:-50])
    program.main([str(folder), str(output), *OPTIONS])
    assert "step 12 of 12" in capsys.readouterr().out
    assert load_tokenizer(output).fingerprint() == load_tokenizer(trained).fingerprint()  # the seed decides
    program.main([str(folder), str(output), *OPTIONS, "--seed", "2"])
    assert load_tokenizer(output).fingerprint() != load_tokenizer(trained).fingerprint()


def test_the_picture_shows_images_above_their_reconstructions(trained):
    from PIL import Image

    tokenizer = load_tokenizer(trained)
    images = torch.randint(0, 256, (11, 3, 16, 16)).byte()
    shown = np.array(Image.open(io.BytesIO(program.picture(tokenizer, images))))
    assert shown.shape == (4 * 16, 8 * 16, 3)
    assert np.array_equal(shown[32:48, 16:32], images[9].permute(1, 2, 0).numpy())
    assert np.array_equal(shown[48:64, 16:32], tokenizer.reconstruct(images[9:10])[0].permute(1, 2, 0).numpy())
    assert (shown[32:, 3 * 16 :] == 255).all()


def test_prepared_folders_are_read_together_and_splits_kept_apart(tmp_path):
    for name, first in (("pairs", 0), ("images", 40)):
        parts = {"train": range(first, first + 9), "valid": range(first + 20, first + 23)}
        records = {split: [(f"{n}.png", draw(n), None) for n in numbers] for split, numbers in parts.items()}
        write_folder(tmp_path / name, records)
    chosen, held_out = image_sources.choose(tmp_path, 100, 100, seed=1)
    numbers = {int(record.name.rpartition(" ")[2].removesuffix(".png")) for record in chosen}
    assert numbers == {*range(9), *range(40, 49)}
    assert len(held_out) == 6 and len(image_sources.choose(tmp_path / "pairs", 5, 2, seed=1)[0]) == 5
    again = image_sources.choose(tmp_path, 7, 2, seed=1)
    assert [record.name for record in again[0]] == [r.name for r in image_sources.choose(tmp_path, 7, 2, seed=1)[0]]
    loaded = dict(image_sources.load(chosen, 16))
    assert {tuple(sorted(image.shape)) for image in loaded.values()} == {(3, 16, 20)}


def test_a_folder_without_validation_images_lends_some(tmp_path):
    write_folder(tmp_path, {"train": [(f"{n}.png", draw(n), None) for n in range(10)]})
    chosen, held_out = image_sources.choose(tmp_path, 100, 100, seed=1)
    assert (len(chosen), len(held_out)) == (9, 1)
    assert not {record.name for record in chosen} & {record.name for record in held_out}


def test_files_that_are_no_images_are_left_out_and_counted(tmp_path, capsys):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(draw(1))
    (tmp_path / "broken.png").write_bytes(draw(2)[:60])
    records = [image_sources.ImageRecord(path.name, path=path) for path in sorted(tmp_path.iterdir())]
    images, refused = program.read(records, 16)
    assert len(images) == 3 and sum(refused.values()) == 1
    assert "left out broken.png" in capsys.readouterr().out


def test_long_images_keep_their_middle():
    from PIL import Image

    class Panorama:
        def open(self):
            return Image.new("RGB", (900, 30), (1, 2, 3))

    assert next(image_sources.load([Panorama()], 16))[1].shape == (3, 16, 32)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--image-size", "30"], "--image-size 30: expected a multiple of --patch-size 8"),
        (["--images", "0"], "--images 0: expected 1 or more"),
        (["--codes", "0"], "num_codes 0"),
        (["--min-scale", "2"], "min_scale 2.0"),
        (["--device", "tpu"], "--device tpu: expected auto, cpu, or cuda"),
    ],
)
def test_wrong_options_are_named(folder, tmp_path, options, message):
    with pytest.raises(SystemExit) as ended:
        program.main([str(folder), str(tmp_path / "x.pt"), *OPTIONS, *options])
    assert message in str(ended.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(ValueError, match="0 images; expected a folder that .*data_prep.images"):
        image_sources.choose(tmp_path, 1, 1, seed=1)
