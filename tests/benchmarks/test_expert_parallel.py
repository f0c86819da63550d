"""The benchmark of the exchange runs, and its figures add up."""

import json

import pytest

PROGRAM = "benchmarks/expert_parallel.py"


@pytest.mark.slow
@pytest.mark.parametrize("more, exchanges", [((), 4), (("--recompute", "--heads", "1"), 6)])
def test_bytes_are_those_of_the_formula_and_times_add_up(run_program, tmp_path, more, exchanges):
    target = tmp_path / "figures.json"
    small = ["--quick", "--width", 32, "--tokens", 16, "--rounds", 1, "--steps", 2, "--processes", 1, 2, *more]
    output = run_program(PROGRAM, *small, "--json", target).stdout
    alone, two = json.loads(target.read_text())["rows"]
    assert (alone["bytes_per_token"], alone["exchange_ms"], alone["remote_share"]) == (0, 0, 0)
    assert two["bytes_per_token"] == two["formula_bytes_per_token"] == 2 * exchanges * 2 * 32 * 4
    assert 0 < two["remote_share"] < 1 and two["even_remote_share"] == 0.5
    assert two["step_ms"] == pytest.approx(two["compute_ms"] + two["wait_ms"] + two["exchange_ms"])
    assert len([line for line in output.splitlines() if line.startswith("| ")]) == 3


def test_a_size_that_does_not_divide_the_experts_is_refused(run_program):
    result = run_program(PROGRAM, "--processes", 3, check=False)
    assert result.returncode == 2
    assert "--processes 3: expected divisors of --experts 8" in result.stderr
