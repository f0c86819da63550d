"""python -m data_prep.images: options become inputs and settings, errors are one line."""

import json

import pytest

from data_prep.images.__main__ import main
from fairseq_mhmoe.data.image_shards import ImageShards


@pytest.fixture
def data(tmp_path, draw, write_tar):
    write_tar(
        tmp_path / "a.tar",
        [(f"{n}.{kind}", draw(n) if kind == "png" else "x") for n in range(6) for kind in ("png", "txt")],
    )
    write_tar(tmp_path / "b.tar", [(f"{n}.png", draw(n)) for n in (7, 8)] + [("9.png", b"")])
    (tmp_path / "list.tsv").write_text("the city\tpictures/1.png\nthe river\tpictures/2.png\n")
    (tmp_path / "pictures").mkdir()
    for number in (1, 2):
        (tmp_path / f"pictures/{number}.png").write_bytes(draw(number + 20))
    return tmp_path


def run(data, *arguments):
    common = ["--output", "{}/out", "--workers", "1", "--valid-share", "0", "--test-share", "0"]
    main([word.replace("{}", str(data)) for word in (*common, *arguments)])


def test_sources_splits_and_settings_reach_the_manifest(data, capsys, tiny_data_dir):
    sources = ["--source", "x={}/a.tar", "--source", "x:valid={}/b.tar", "--source", "y={}/list.tsv"]
    more = ["--images", "y={}", "--license", "x=CC0", "--attribution", "y=by me", "--max-pixels", "5000", "--name", "n"]
    run(data, *sources, *more, "--dictionary", str(tiny_data_dir))
    manifest = json.loads((data / "out/manifest.json").read_text())
    assert manifest["name"] == "n" and manifest["limits"]["max_pixels"] == 5000
    x, y = manifest["sources"]["x"], manifest["sources"]["y"]
    assert (x["license"], y["license"], y["attribution"]) == ("CC0", "unknown", "by me")
    assert (x["formats"], y["formats"], x["packed"], y["packed"]) == (["webdataset"], ["tsv"], False, True)
    assert len(ImageShards(data / "out", "train")) == 8
    assert "2 sources, records: train 8; 3 of 11 rejected (empty 1, no_caption 2)" in capsys.readouterr().out


def test_formats_of_one_source_or_of_all(data):
    run(data, "--source", "x={}/a.tar", "--source", "x:valid={}/b.tar", "--format", "tar")
    manifest = json.loads((data / "out/manifest.json").read_text())
    # without a format's text files, what has no image is still counted
    assert manifest["sources"]["x"]["formats"] == ["tar"] and manifest["splits"]["valid"]["records"] == 2
    run(data, "--source", "x={}/pictures", "--format", "x=folder")
    assert len(ImageShards(data / "out", "train")) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--source", "x"], "--source 'x'; expected NAME[:SPLIT]=GLOB"),
        (["--source", "x={}/none*"], "no such files"),
        (["--source", "x:dev={}/a.tar"], "split is 'dev'"),
        (["--source", "x={}/a.tar", "--format", "y=tar"], "--format y=tar: no such source; the sources are x"),
        (["--source", "x={}/a.tar", "--format", "tar", "--format", "folder"], "--format says tar and folder"),
        (["--source", "x={}/a.tar", "--license", "x=a", "--license", "x=b"], "--license says x twice"),
        (["--source", "x={}/a.tar", "--format", "word"], "format is 'word'"),
        (["--source", "x={}/a.tar", "--images", "x={}"], "--images is for listings"),
        (["--source", "x={}/*", "--format", "folder"], "format folder takes folders of pictures"),
        (["--source", "x={}/a.tar", "--source", "x={}/list.tsv"], "x has both tars and loose files"),
        (["--source", "x={}/a.tar", "--dictionary", "{}"], "expected dict.txt and one of spm.model"),
        (["--source", "x={}/a.tar", "--min-side", "0"], "min_side is 0; expected 1 or more"),
        (["--source", "x={}/a.tar", "--executor", "slurm"], "Slurm needs the name of a partition"),
        (["--source", "x={}/a.tar", "--min-side", "99"], "no image for training was accepted (too_small 6)"),
    ],
)
def test_errors_are_one_line(data, arguments, message):
    with pytest.raises(SystemExit) as error:
        run(data, *arguments)
    text = str(error.value)
    assert message in text and text.startswith("error: ") and "\n" not in text


def test_slurm_jobs_are_shown(data, capsys):
    slurm = ["--executor", "slurm", "--slurm-partition", "cpu", "--dry-run"]
    run(data, "--source", "x={}/*.tar", *slurm)
    shown = capsys.readouterr().out
    assert "data_prep-index" in shown and "data_prep-publish" in shown and "--array" in shown.replace("#SBATCH ", "")
    assert not (data / "out/manifest.json").exists()
