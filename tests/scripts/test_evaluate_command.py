"""scripts/evaluate.sh: what it would run (DRY_RUN=1), its complaints, and one real evaluation."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from fairseq_mhmoe.cli.lm_eval import make_parser

ROOT = Path(__file__).parents[2]


def run(*arguments, **environment):
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        ["bash", str(ROOT / "scripts/evaluate.sh"), *map(str, arguments)],
        cwd=ROOT,
        env=keep | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def commands(*arguments, **environment):
    done = run(*arguments, **{"DRY_RUN": "1", **environment})
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_the_demonstration_is_made_scored_asked_and_shown(tmp_path):
    found = commands("runs/x/best.pt", "/data", LOCAL_DATA=str(tmp_path / "records"))
    programs = [next(word for word in words if word.startswith(("data_prep.", "fairseq_mhmoe."))) for words in found]
    assert programs == [
        "data_prep.zero_shot", "fairseq_mhmoe.cli.evaluate", "fairseq_mhmoe.cli.lm_eval",
        "fairseq_mhmoe.cli.evaluation_table",
    ]  # fmt: skip
    assert found[1][found[1].index("--output") + 1] == "runs/x/best-evaluation/scores.json"
    given = make_parser().parse_args(found[2][found[2].index("fairseq_mhmoe.cli.lm_eval") + 1 :])
    assert (given.tasks, str(given.local_data)) == ("mhmoe_demonstration", str(tmp_path / "records"))
    assert str(given.output) == "runs/x/best-evaluation/lm-eval"


def test_settings_reach_the_programs():
    settings = {"TASKS": "mhmoe_zero_shot", "NPROC": "8", "LIMIT": "5", "NUM_FEWSHOT": "2", "DEVICE": "cpu"}
    scores, tasks, _ = commands("a.pt", "/data", LOCAL_DATA="", SPLITS="test", **settings)
    assert "--cpu" in scores and scores[scores.index("--gen-subset") + 1] == "test"
    assert tasks[1:4] == ["--standalone", "--nproc-per-node", "8"]
    given = make_parser().parse_args(tasks[tasks.index("fairseq_mhmoe.cli.lm_eval") + 1 :])
    assert (given.tasks, given.limit, given.num_fewshot, given.device) == ("mhmoe_zero_shot", 5, 2, "cpu")
    assert given.local_data is None


@pytest.mark.parametrize(
    "arguments, environment, message",
    [
        ([], {}, "expected CHECKPOINT"),
        (["a.pt"], {"DRY_RUN": "1"}, "name its data folder too"),
        (["a.pt", "/data"], {"NPROC": "0"}, "NPROC is '0'"),
        (["a.pt", "/data"], {"LIMIT": "x"}, "LIMIT is 'x'"),
        (["a.pt", "/data"], {"DEVICE": "tpu"}, "choose auto, cuda or cpu"),
        (["nowhere.pt", "/data"], {}, "no checkpoint nowhere.pt"),
    ],
)
def test_wrong_settings_are_named(arguments, environment, message):
    done = run(*arguments, **environment)
    assert done.returncode == 2
    assert message in done.stderr


def test_help_names_every_setting():
    text = run("--help").stdout
    for name in ("TASKS", "LOCAL_DATA", "NUM_FEWSHOT", "LIMIT", "SPLITS", "OUTPUT", "NPROC", "DEVICE", "DRY_RUN"):
        assert f"\n  {name} " in text


def test_a_checkpoint_is_evaluated_once(tiny_checkpoint, tmp_path):
    record = {"goal": "go to the city", "sol1": "use the road", "sol2": "use the century", "label": 0}
    (tmp_path / "records/piqa").mkdir(parents=True)
    (tmp_path / "records/piqa/validation.jsonl").write_text(json.dumps(record) + "\n")
    settings = {"LOCAL_DATA": str(tmp_path / "records"), "TASKS": "piqa", "OUTPUT": str(tmp_path / "out")}
    settings |= {"DEVICE": "cpu", "SPLITS": "valid"}
    done = run(tiny_checkpoint("mhmoe"), **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert figures["perplexity"]["valid"]["perplexity"] > 1
    assert figures["tasks"]["piqa"]["acc,none"] in (0.0, 1.0)
    assert (tmp_path / "out/evaluation.md").read_text().strip() in done.stdout
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("**/*s.json")}
    again = run(tiny_checkpoint("mhmoe"), **settings)
    assert again.returncode == 0 and again.stderr.count("is there") == 2, again.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("**/*s.json")} == before
