"""scripts/evaluate.sh: what it would run (DRY_RUN=1), its complaints, and what it does again."""

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
        timeout=200,
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


PYTHON = """#!/usr/bin/env bash
# stands for the programs, whose own tests run them: notes its words, and writes what they would write
echo "$*" >>"$CALLS"
case "$*" in
  *settings*) printf '%s\\n' "$HASH" "$FOLDER" 32 ;;
  *" --output "*lm-eval*) mkdir -p "$OUTPUT/lm-eval" && echo "{}" >"$OUTPUT/lm-eval/results.json" ;;
  *" --output "*) echo "{}" >"$OUTPUT/scores.json" ;;
esac
"""


def test_a_checkpoint_is_evaluated_once_and_again_when_it_changed(tmp_path):
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    calls = tmp_path / "calls"
    settings = {"VENV": str(tmp_path / "venv"), "CALLS": str(calls), "FOLDER": str(tmp_path), "TASKS": "piqa"}
    settings["OUTPUT"] = str(tmp_path / "out")

    def programs(**changes):
        calls.unlink(missing_ok=True)
        done = run("a.pt", **{**settings, "HASH": "1", **changes})
        assert done.returncode == 0, done.stderr
        return [line.split()[1].rpartition(".")[2] for line in calls.read_text().splitlines()]

    everything = ["evaluation_table", "evaluate", "lm_eval", "evaluation_table"]
    assert programs() == everything
    words = calls.read_text().splitlines()[1].split()
    assert words[words.index("--tokens-per-sample") + 1] == "32" and words[2] == str(tmp_path)
    assert programs() == ["evaluation_table", "evaluation_table"]
    assert programs(LIMIT="3") == ["evaluation_table", "lm_eval", "evaluation_table"]
    assert programs(LIMIT="3", HASH="2") == everything
