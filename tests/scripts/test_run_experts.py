"""scripts/run.sh says how experts are spread over processes; DRY_RUN=1."""

import pytest

from fairseq_mhmoe.moe.parallel import choose_size

from .test_run_command import run, with_argument


@pytest.mark.parametrize(
    "experts, options, expected",
    [
        ("8", [], "P = 8, replicas = 2: each process holds 1 of 8 experts"),
        ("40", [], "P = 8, replicas = 2: each process holds 5 of 40 experts"),
        ("32", [], "P = 16, replicas = 1: each process holds 2 of 32 experts"),
        ("9", [], "P = 1, replicas = 16: each process holds 9 of 9 experts"),
        ("32", ["--moe-expert-parallel-size 4"], "P = 4, replicas = 4: each process holds 8 of 32 experts"),
    ],
)
def test_any_number_of_experts_is_spread_over_any_number_of_processes(experts, options, expected):
    done = run(*with_argument(5, experts), *options, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    assert expected in done.stderr


def test_the_sizes_are_those_of_the_package():
    for experts, processes in ((12, 16), (7, 3), (30, 12)):
        words = (str(processes), "1", "runs/x", str(processes), "6e-4", str(experts), "1", "2")
        done = run(*words, UPDATE_FREQ="1", DRY_RUN="1")
        assert f"P = {choose_size(experts, processes)}, " in done.stderr


def test_one_process_shares_nothing():
    assert "P = " not in run("1", "1", "runs/x", "8", "1e-3", "8", "2", "2", UPDATE_FREQ="1", DRY_RUN="1").stderr


@pytest.mark.parametrize(
    "experts, options, message",
    [
        (
            "12",
            "--moe-expert-parallel-size 8",
            "is '8'; it must divide both EXPERTS 12 and NGPUS x NNODES = 16: take one",
        ),
        ("12", "--moe-expert-parallel-size=32", "is '32'; it must divide both EXPERTS 12 and NGPUS x NNODES = 16"),
        ("8", "--moe-expert-parallel-size", "is ''; it must divide"),
        ("8", "--moe-expert-parallel-size '1 2'", "is '1 2'; it must divide"),
    ],
)
def test_a_size_that_does_not_fit_is_named_with_those_that_would(experts, options, message):
    done = run(*with_argument(5, experts), options, DRY_RUN="1")
    assert done.returncode == 2
    assert f"run.sh: error: --moe-expert-parallel-size {message}" in done.stderr
