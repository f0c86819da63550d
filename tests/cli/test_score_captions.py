"""Scores of a file of captions: the table, the JSON, what is refused."""

import json

import pytest

from fairseq_mhmoe.cli.score_captions import main

REFERENCES = {1: ["a dog on the beach", "a dog runs"], 2: ["two cats on a chair"], 3: ["not asked for"]}


@pytest.fixture
def references(tmp_path):
    rows = [{"image_id": number, "caption": text} for number, texts in REFERENCES.items() for text in texts]
    path = tmp_path / "references.json"
    path.write_text(json.dumps({"annotations": rows}))
    return path


def results(folder, **captions):
    path = folder / "results.json"
    path.write_text(json.dumps([{"image_id": int(key[1:]), "caption": text} for key, text in captions.items()]))
    return path


def test_scores_are_told_and_written(tmp_path, references, capsys):
    path = results(tmp_path, n1="a dog on the beach", n2="two cats")
    main([str(path), str(references), "--output", str(tmp_path / "scores.json"), "--no-java"])
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["examples"] == 2 and scores["references"] == 3 and 0 < scores["metrics"]["BLEU@4"] < 100
    assert set(scores["metrics"]) == {"BLEU@1", "BLEU@2", "BLEU@3", "BLEU@4", "CIDEr"}
    assert scores["notes"]["SPICE"] == "Java was not to be used"
    assert scores["of_images"]["image_id"] == [1, 2] and len(scores["of_images"]["CIDEr"]) == 2
    told = capsys.readouterr().out
    assert f"{scores['metrics']['CIDEr']:.1f}" in told and "METEOR: Java was not to be used" in told


def test_the_table_of_fine_tuned_models_reads_the_scores(tmp_path, references, capsys):
    from fairseq_mhmoe.cli.finetuning_table import main as table

    path = results(tmp_path, n1="a dog on the beach", n2="two cats")
    main([str(path), str(references), "--output", str(tmp_path / "scores.json"), "--no-java"])
    capsys.readouterr()
    table([str(tmp_path / "scores.json")])
    assert "CIDEr" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"n1": "a", "n9": "b"}, "no captions of 1 images, for example 9"),
        ({}, "there are no references"),
    ],
)
def test_images_that_can_not_be_scored_are_told(tmp_path, references, arguments, words):
    with pytest.raises(SystemExit, match=words):
        main([str(results(tmp_path, **arguments)), str(references), "--no-java"])


def test_a_time_is_more_than_nothing(tmp_path, references, capsys):
    with pytest.raises(SystemExit):
        main([str(results(tmp_path, n1="a")), str(references), "--java-timeout", "0"])
    assert "expected more than 0" in capsys.readouterr().err
