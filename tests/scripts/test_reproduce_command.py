"""scripts/reproduce.sh: its help, what it would run (DRY_RUN=1), and the complaints of the command behind it."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from fairseq_mhmoe.cli.reproduce_arguments import make_parser, parse_request
from fairseq_mhmoe.cli.reproduce_settings import SEEDS

ROOT = Path(__file__).parents[2]


def script(*arguments, **environment):
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = ["bash", str(ROOT / "scripts/reproduce.sh"), *arguments]
    return subprocess.run(command, cwd="/", env=keep | environment, capture_output=True, text=True, timeout=60)


def request(*words):
    return parse_request(make_parser(), list(words))


def test_dry_run_shows_the_command():
    done = script("multilingual", "--set", "width=64", DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words == [f"{ROOT}/.venv/bin/python", "-m", "fairseq_mhmoe.cli.reproduce"] + [
        "multilingual",
        "--set",
        "width=64",
    ]


def test_dry_run_is_0_or_1():
    done = script(DRY_RUN="yes")
    assert (done.returncode, done.stdout) == (2, "") and "DRY_RUN is 'yes'; give 0 or 1" in done.stderr


def test_help_explains_every_option_and_no_other():
    text = script("--help").stdout
    known = {name for name in make_parser()._option_string_actions if name.startswith("--")}
    assert set(re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE)) == known - {"--help"}
    assert set(re.findall(r"(?<![\w-])--[a-z-]+", text)) <= known


def test_defaults():
    found = request("--device", "cpu")
    assert (found.corpus, found.comparison, found.parity, found.seeds) == ("english", "table1", "params", SEEDS)
    assert (found.output, found.prepare, found.jobs) == (Path("runs/reproduce/english"), True, os.cpu_count())


@pytest.mark.parametrize(
    "words, name, comparison, parity",
    [
        (["multilingual", "--full"], "multilingual-full", "table1", "params"),
        (["--parity", "flops"], "english-flops", "table1", "flops"),
        (["--paper", "v2"], "english-v2", "v2", "flops"),
        (["--ablation", "heads", "--parity", "flops"], "english-heads-flops", "heads", "flops"),
        (["--ablation", "depth"], "english-depth", "depth", "params"),
        (["--name", "mine"], "mine", "table1", "params"),
    ],
)
def test_results_are_named_for_what_is_compared(words, name, comparison, parity):
    found = request(*words)
    assert (found.output.name, found.comparison, found.parity) == (name, comparison, parity)


def test_named_options_win_over_the_table():
    found = request("--tokens", "4096", "--experts", "8", "32", "--learning-rate", "1e-3", "--set", "heads=4")
    assert (found.scale.tokens, found.scale.experts, found.scale.learning_rate, found.scale.heads) == (
        4096,
        (8, 32),
        1e-3,
        4,
    )


@pytest.mark.parametrize(
    "words, message",
    [
        ("--paper v2 --ablation heads", "--ablation: heads, components and depth are tables of v1"),
        ("--paper v2 --parity params", "--parity params: v2 compares at equal FLOPs"),
        ("--ablation heads --experts 8 32", "--experts 8 32: several numbers are for table 1"),
        ("--seeds 1 1", "--seeds 1 1: expected different numbers"),
        ("--jobs 0", "--jobs 0: expected 1 or more"),
        ("--name a/b", "--name 'a/b': expected a name without slashes"),
        ("--name a --output b", "--name and --output both say"),
        ("--tokens 5", "tokens 5: expected"),
        ("--set width=x", "--set width=x: expected a whole number"),
        ("--learning-rate fast", "--learning-rate fast: expected a number"),
        ("german", "invalid choice: 'german'"),
    ],
)
def test_what_can_not_be_ends_with_status_2_and_says_why(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        request(*words.split())
    assert ended.value.code == 2 and message in capsys.readouterr().err
