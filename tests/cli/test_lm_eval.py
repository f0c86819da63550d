"""mhmoe-lm-eval: the command, its files, and that several processes give what one gives."""

import json
import shutil

import pytest

from fairseq_mhmoe.cli import evaluation_table
from fairseq_mhmoe.cli.lm_eval import main

from ..distributed.launcher import describe, program_ranks

RECORDS = [
    {"goal": goal, "sol1": f"use the {first}", "sol2": f"use the {second} of the city", "label": label}
    for goal, first, second, label in [
        ("wash the house", "water", "system", 0),
        ("know the history of the south", "map", "book", 1),
        ("go to the city", "road", "century", 0),
    ]
]


@pytest.fixture(scope="module")
def local_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    (folder / "piqa").mkdir()
    (folder / "piqa/validation.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return folder


@pytest.fixture(scope="module")
def words(tiny_checkpoint, local_data):
    return ["--checkpoint", tiny_checkpoint("mhmoe"), "--tasks", "piqa", "--local-data", local_data, "--device", "cpu"]


def call(words, capsys):
    status = main([str(word) for word in words])
    return status, capsys.readouterr()


@pytest.fixture(scope="module")
def one_process(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    cache = folder / "cache.jsonl"
    assert main([str(word) for word in [*words, "--output", folder, "--samples", "--cache", cache]]) == 0
    return folder


def test_the_files_tell_figures_model_and_data(one_process, tiny_checkpoint):
    results = json.loads((one_process / "results.json").read_text())
    samples = [json.loads(line) for line in (one_process / "samples/piqa.jsonl").read_text().splitlines()]
    right = []
    for sample, record in zip(samples, RECORDS, strict=True):
        (first, _), (second, _) = (answer[0] for answer in sample["resps"])
        right.append(int(first < second) == record["label"])
        assert sample["acc"] == right[-1]
    assert results["results"]["piqa"]["acc,none"] == pytest.approx(sum(right) / 3)
    assert results["n-samples"]["piqa"] == {"original": 3, "effective": 3}
    assert results["data"]["piqa"]["validation"]["records"] == 3
    model = results["model"]
    assert (model["experts"], model["top_k"], model["heads"], model["longest"]) == (6, 2, 3, 32)
    assert model["checkpoint"] == str(tiny_checkpoint("mhmoe"))
    assert results["computed"] == {"computed": 6, "cached": 0}
    assert "|piqa " in (one_process / "results.md").read_text()
    assert results["configs"]["piqa"]["doc_to_text"] == "Question: {{goal}}\nAnswer:"


def test_the_cache_answers_a_second_run(one_process, words, tmp_path, capsys):
    status, printed = call([*words, "--cache", one_process / "cache.jsonl", "--output", tmp_path], capsys)
    assert status == 0 and "0 answers computed, 6 from the cache" in printed.out
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (one_process, tmp_path))
    assert first["results"] == second["results"]
    assert first["task_hashes"] == second["task_hashes"]


def test_two_processes_give_the_figures_of_one(one_process, words, tmp_path):
    more = ["--output", tmp_path, "--samples", "--batch-size", 1]
    ranks = program_ranks("fairseq_mhmoe.cli.lm_eval", [*words, *more])
    assert [rank.status for rank in ranks] == [0, 0], describe(ranks)
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (one_process, tmp_path))
    assert second["results"] == first["results"]
    assert second["computed"] == {"computed": 6, "cached": 0}
    alone, shared = ((folder / "samples/piqa.jsonl").read_text().splitlines() for folder in (one_process, tmp_path))
    for one, other in zip(map(json.loads, alone), map(json.loads, shared), strict=True):
        assert [answer[0][0] for answer in one["resps"]] == pytest.approx(
            [answer[0][0] for answer in other["resps"]], abs=1e-4
        )
    assert sum("|piqa " in rank.output for rank in ranks) == 1


@pytest.mark.parametrize(
    "more, message",
    [
        (["--batch-size", "0"], "--batch-size 0: expected 1 or more"),
        (["--limit", "1.5"], "--limit 1.5: expected a number of records"),
        (["--num-fewshot", "-1"], "--num-fewshot -1"),
        (["--samples"], "add --output"),
        (["--tasks", " , "], "expected names with commas between"),
        (["--checkpoint", "/nowhere.pt"], "no checkpoint /nowhere.pt"),
        (["--num-fewshot", "1"], "--local-data has no piqa/train.jsonl"),
    ],
)
def test_what_can_not_be_is_said_in_a_line(words, capsys, more, message):
    status, printed = call([*words, *more], capsys)
    assert status == 2
    [line] = [line for line in printed.err.splitlines() if ": error: " in line]
    assert message in line


def test_the_table_of_perplexity_and_tasks(one_process, tmp_path, capsys):
    shutil.copytree(one_process, tmp_path / "lm-eval")
    split = {
        "documents": 5, "tokens": 90, "nll": 400.0, "perplexity": 85.2, "perplexity_95": [80.1, 90.4],
        "bits_per_byte": 2.5, "activated_experts": None, "document_nll": [80.0] * 5, "document_tokens": [18] * 5,
    }  # fmt: skip
    (tmp_path / "scores.json").write_text(json.dumps({"valid": split}))
    assert evaluation_table.main(["table", str(tmp_path)]) == 0
    text = (tmp_path / "evaluation.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert any(row[:4] == ["piqa", "3", "0", "acc"] for row in cells) and "85.2" in text
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    assert (
        figures["perplexity"]["valid"]["bits_per_byte"] == 2.5 and "document_nll" not in figures["perplexity"]["valid"]
    )
    assert (
        figures["tasks"]["piqa"]["acc,none"]
        == json.loads((one_process / "results.json").read_text())["results"]["piqa"]["acc,none"]
    )
    (tmp_path / "scores.json").write_text("[]")
    assert evaluation_table.main(["table", str(tmp_path)]) == 2


def test_settings_of_a_checkpoint(tiny_checkpoint, tiny_data_dir, capsys):
    assert evaluation_table.main(["settings", str(tiny_checkpoint("mhmoe"))]) == 0
    sha256, data, block = capsys.readouterr().out.splitlines()
    assert (len(sha256), data, block) == (64, str(tiny_data_dir), "32")
    assert evaluation_table.main(["settings", "/nowhere.pt"]) == 2
