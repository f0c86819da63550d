"""The whole demonstration, shrunken: it reports what it found, and a second call does nothing again."""

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_mhmoe.cli.demo import command_line, parse_arguments

from .. import forks

ROOT = Path(__file__).parents[2]


def demo(*arguments):
    return forks.run_program("fairseq_mhmoe.cli.demo", arguments, seconds=100)


def demo_in_a_new_process(*arguments):
    command = [sys.executable, "-m", "fairseq_mhmoe.cli.demo", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
def test_one_model_and_again(tiny_data_dir, tmp_path):
    arguments = ("--data", tiny_data_dir, "--output", tmp_path, "--updates", 20, "--models", "mhmoe")
    first = demo_in_a_new_process(*arguments)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.count("update   20 of 20") == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["command"].endswith("--updates 20 --models mhmoe")
    [row] = results["models"]
    assert (row["model"], row["updates"]) == ("mhmoe", 20)
    assert row["valid_ppl_95"][0] <= row["valid_ppl"] <= row["valid_ppl_95"][1]
    assert row["tokens_per_s"] > 0
    assert set(row["activated_experts"]) == {"threshold", "per_token", "per_sub_token"}

    second = demo(*arguments)
    assert second.stdout.count("done before") == 2
    assert json.loads((tmp_path / "results.json").read_text()) == results


def test_folder_without_manifest_is_refused(tmp_path):
    done = demo("--data", tmp_path, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert f"error: {tmp_path} has no manifest.json" in done.stdout


def test_two_at_once_are_refused(tmp_path):
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = demo("--data", tmp_path, "--output", tmp_path)
    assert done.returncode == 1
    assert "another demonstration is at work" in done.stdout


@pytest.mark.parametrize("option", ["--updates", "--threads"])
def test_numbers_are_checked(option, capsys):
    with pytest.raises(SystemExit):
        parse_arguments([option, "0"])
    assert f"{option} 0: expected 1 or more" in capsys.readouterr().err


def test_command_is_what_to_type():
    assert command_line(parse_arguments([])) == "bash scripts/run.sh"
    words = ["--data", "a b", "--updates", "5", "--models", "dense", "xmoe"]
    assert (
        command_line(parse_arguments(words))
        == "python -m fairseq_mhmoe.cli.demo --data 'a b' --updates 5 --models dense xmoe"
    )
