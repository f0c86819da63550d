"""Timing in turns, the allocator of a benchmark, and what it says about its machine."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import machine
from malloc import GLIBC_TUNING, JEMALLOC_CONF, MARK, allocator_environment
from timing import Times, measure, time_once

BENCHMARKS = str(Path(machine.__file__).parent)
CPU = torch.device("cpu")


class Worker:
    """A run that computes for some milliseconds each way and remembers when it ran."""

    def __init__(self, name, diary, forward=0.0, backward=0.0):
        self.name, self.diary, self.times = name, diary, (forward, backward)

    def clear(self):
        self.diary.append("clear")

    def forward(self):
        self.diary.append(self.name)
        self._compute(self.times[0])
        return self.name

    def backward(self, output):
        assert output == self.name
        self._compute(self.times[1])

    def _compute(self, milliseconds):
        end = time.process_time() + milliseconds / 1000
        while time.process_time() < end:
            pass


def run_in_turns(runs, first, rounds, seconds):
    return measure(runs, first, CPU, rounds, dict.fromkeys(runs, seconds), {name: name == "needed" for name in runs})


def test_forward_and_backward_are_timed_apart():
    times = time_once(Worker("a", [], forward=4, backward=12), CPU)
    assert 4 <= times.forward < 12 <= times.backward
    assert times.total == times.forward + times.backward


def test_variants_take_turns_in_alternating_order():
    diary = []
    runs = {name: Worker(name, diary) for name in "abc"}
    times = run_in_turns(runs, dict.fromkeys(runs, Times(0, 0)), rounds=3, seconds=5)
    assert "".join(word for word in diary if word != "clear") == "abc" "cba" "abc"
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_slow_run_has_its_few_rounds_spread_over_all():
    diary = []
    runs = {name: Worker(name, diary) for name in ("s", "f")}
    times = run_in_turns(runs, {"s": Times(10, 15), "f": Times(0, 1)}, rounds=6, seconds=0.05)
    assert (len(times["s"]), len(times["f"])) == (2, 6)
    assert "".join(word for word in diary if word != "clear") == "ff" "sf" "ff" "fs"


def test_a_run_too_slow_for_one_round_keeps_its_first_time():
    diary = []
    times = run_in_turns({"slow": Worker("slow", diary)}, {"slow": Times(1000, 2000)}, rounds=5, seconds=1)
    assert times == {"slow": [Times(1000, 2000)]}
    assert diary == []


def test_a_run_that_is_needed_is_run_however_slow():
    diary = []
    times = run_in_turns({"needed": Worker("needed", diary)}, {"needed": Times(1000, 2000)}, rounds=5, seconds=0)
    assert len(times["needed"]) == diary.count("needed") == 1


@pytest.mark.parametrize(
    "choice, current, library, expected",
    [
        ("auto", "glibc", "libjemalloc.so.2", "jemalloc"),
        ("auto", "glibc", None, "glibc"),
        ("glibc", "glibc", "libjemalloc.so.2", "glibc"),
        ("glibc", "jemalloc", "libjemalloc.so.2", "glibc"),
        ("jemalloc", "glibc tuned", "libjemalloc.so.2", "jemalloc"),
        ("auto", "jemalloc", "libjemalloc.so.2", None),
        ("auto", "glibc tuned", None, None),
        ("auto", "other", None, None),
    ],
)
def test_allocator_that_a_new_start_gets(choice, current, library, expected):
    changes = allocator_environment(choice, {"LD_PRELOAD": "libjemalloc.so.1 mine.so"}, current, library)
    assert changes.get(MARK) == expected
    if expected == "jemalloc":
        assert changes["LD_PRELOAD"].split()[0] == library and "mine.so" in changes["LD_PRELOAD"]
        assert changes["MALLOC_CONF"] == JEMALLOC_CONF
    elif expected == "glibc":
        assert GLIBC_TUNING.items() <= changes.items()
        assert current != "jemalloc" or changes["LD_PRELOAD"] == "mine.so"


def test_a_program_that_was_started_again_is_not_started_once_more():
    assert allocator_environment("jemalloc", {MARK: "glibc"}, "glibc", None) == {}


def test_jemalloc_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="--allocator jemalloc: no libjemalloc found; install it"):
        allocator_environment("jemalloc", {}, "glibc", None)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc than glibc's")
def test_a_program_starts_again_once_with_its_arguments():
    code = (
        f"import sys; sys.path.insert(0, {BENCHMARKS!r}); import json, malloc; "
        "malloc.restart_under_allocator('glibc'); malloc.restart_under_allocator('glibc'); "
        "print(json.dumps([sys.argv[1:], malloc.allocator()]))"
    )
    untuned = {k: v for k, v in os.environ.items() if k not in GLIBC_TUNING and k not in (MARK, "LD_PRELOAD")}
    command = [sys.executable, "-W", "ignore", "-c", code, "--an", "argument"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=untuned, check=True)
    assert json.loads(result.stdout) == [["--an", "argument"], "glibc tuned"]
    assert result.stderr.count("starting again") == 1


def test_machine_names_what_times_depend_on():
    figures = machine.describe("cpu")
    assert set(figures) == {
        "cpu", "cores", "threads", "allocator", "cpu_bf16", "gpu", "capability", "gpu_mib"
    }  # fmt: skip
    assert figures["cpu"] and figures["cores"] >= 1 and figures["threads"] == torch.get_num_threads()
    assert figures["gpu"] is figures["capability"] is figures["gpu_mib"] is None
