"""python -m data_prep: options become recipe and settings, errors are one line."""

import json

import pytest

from data_prep.__main__ import main


@pytest.fixture
def corpus(tmp_path, write_jsonl, make_texts):
    write_jsonl(tmp_path / "a.jsonl", make_texts(80))
    (tmp_path / "b.txt").write_text("\n\n".join(make_texts(40, seed=1)))
    return tmp_path


def arguments(folder, *more):
    common = ["--output", folder / "out", "--vocab-size", 320, "--min-chars", 10]
    return [str(word) for word in (*common, "--valid-share", 0.2, "--test-share", 0.2, *more)]


def test_sources_and_their_attributes_reach_the_manifest(corpus, capsys):
    more = ["--source", f"x={corpus}/*.jsonl", "--source", f"y={corpus}/b.txt", "--weight", "x=2", "--language", "y=de"]
    main(arguments(corpus, *more, "--license", "x=CC0", "--name", "mine", "--model-type", "bpe", "--workers", "1"))
    manifest = json.loads((corpus / "out/manifest.json").read_text())
    assert manifest["name"] == "mine" and manifest["settings"]["model_type"] == "bpe"
    assert {name: source["read"] for name, source in manifest["sources"].items()} == {"x": 80, "y": 40}
    assert manifest["sources"]["x"]["weight"] == 2 and manifest["sources"]["x"]["license"] == "CC0"
    assert manifest["sources"]["y"]["language"] == "de"
    assert "2 sources, documents: train" in capsys.readouterr().out


def test_the_last_line_tells_rejected_records_and_files_of_another_format(corpus, write_jsonl, make_texts, capfd):
    write_jsonl(corpus / "c.jsonl", [*make_texts(9, seed=2), b"{"])
    (corpus / "d.jsonl").write_text("\n\n".join(make_texts(7)))
    (corpus / "e.jsonl").touch()
    main(arguments(corpus, "--source", f"x={corpus}/*.jsonl", "--source", f"y={corpus}/b.txt", "--workers", "1"))
    out, err = capfd.readouterr()
    assert "8 of 137 records rejected; FILES WITHOUT ONE DOCUMENT: d.jsonl (see manifest.json); " in out
    assert "d.jsonl: all 7 records were rejected: {'json': 7}; is it of this format?" in err
    manifest = json.loads((corpus / "out/manifest.json").read_text())
    assert manifest["unusable"] == [{"file": "d.jsonl", "read": 7, "rejected": {"json": 7}}]


def test_when_nothing_is_left_the_files_of_another_format_are_named(corpus):
    with pytest.raises(SystemExit, match="see that the format is right of b.txt, or take another seed"):
        main(arguments(corpus, "--source", f"x={corpus}/b.txt", "--format", "x=jsonl", "--workers", "1"))


def test_a_recipe_file_is_read(corpus, capsys):
    (corpus / "recipe.yaml").write_text("sources: {x: {files: a.jsonl}}\n")
    main(arguments(corpus, "--recipe", corpus / "recipe.yaml", "--dry-run"))
    assert "stage text: 1 tasks" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more, message",
    [
        ([], "expected one of --source, --recipe and --original-folder, got none"),
        (["--source", "x=*.jsonl", "--recipe", "r.yaml"], "got --source and --recipe"),
        (["--source", "x"], "--source 'x'; expected NAME=VALUE"),
        (["--source", "x=none*"], "no file matches"),
        (["--source", "x={}/a.jsonl", "--license", "y=CC0"], "license of y; the sources are x"),
        (["--source", "x={}/a.jsonl", "--format", "x=word"], "format is 'word'; expected one of "),
        (["--source", "x={}/a.jsonl", "--sample", "2"], "sample is 2.0"),
        (["--source", "x={}/a.jsonl", "--executor", "slurm"], "Slurm needs the name of a partition"),
        (["--source", "x={}/a.jsonl", "--weight", "x=1", "--weight", "x=2"], "--weight says x twice"),
        (["--recipe", "{}/none.yaml"], "No such file"),
        (["--recipe", "{}/none.yaml", "--weight", "x=1"], "--weight with --recipe"),
        (["--source", "x={}/a.jsonl", "--tokenizer", "none.model"], "none.model"),
    ],
)
def test_errors_are_one_line(corpus, more, message):
    with pytest.raises(SystemExit) as error:
        main(arguments(corpus, *(word.replace("{}", str(corpus)) for word in more)))
    assert message in str(error.value) and str(error.value).startswith("error: ") and "\n" not in str(error.value)
