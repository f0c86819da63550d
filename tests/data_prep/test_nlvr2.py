"""NLVR2's official files become index files."""

import json

import pytest

from data_prep.nlvr2 import main
from tests.finetuning_data import write_jsonl

TRAIN = {"identifier": "train-10171-0-1", "sentence": "Two dogs.", "label": "True", "directory": 11, "synset": "dog"}
DEV = {"identifier": "dev-850-2-0", "sentence": "A cat.", "label": "False"}
TEST = {"identifier": "test1-0-1-0", "sentence": "A bowl."}


def test_official_files_become_an_index(tmp_path, capsys):
    for name, example in (("train", TRAIN), ("dev", DEV), ("test1", TEST)):
        write_jsonl(tmp_path / f"{name}.json", [example])
    main(["--annotations", str(tmp_path), "--output", str(tmp_path / "data")])
    found = {path.name: json.loads(path.read_text()) for path in (tmp_path / "data").iterdir()}
    assert found["nlvr2.train.jsonl"] == {
        "image_path": "images/train/11/train-10171-0-img0.png",
        "image2_path": "images/train/11/train-10171-0-img1.png",
        "text": "Two dogs.",
        "identifier": "train-10171-0-1",
        "label": 1,
    }
    assert found["nlvr2.valid.jsonl"]["image_path"] == "dev/dev-850-2-img0.png"
    assert found["nlvr2.valid.jsonl"]["label"] == 0
    assert "label" not in found["nlvr2.test.jsonl"]
    assert found["nlvr2.json"]["records"] == dict.fromkeys(sorted(found.keys() - {"nlvr2.json"}), 1)
    assert "nlvr2.test.jsonl: 1 statements" in capsys.readouterr().out


@pytest.mark.parametrize("line", ['{"identifier": "train-1-0-0"}', "[]", "x", json.dumps(TRAIN | {"label": "maybe"})])
def test_another_line_is_refused(tmp_path, line):
    (tmp_path / "train.json").write_text(f"{json.dumps(TRAIN)}\n{line}\n")
    with pytest.raises(SystemExit, match="error: .*train.json, line 2: no example of NLVR2"):
        main(["--annotations", str(tmp_path), "--output", str(tmp_path / "data")])
    assert not list((tmp_path / "data").glob("nlvr2*"))


def test_a_folder_without_examples_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="error: no .*train.json; name the folder nlvr2/data"):
        main(["--annotations", str(tmp_path), "--output", str(tmp_path / "data")])
