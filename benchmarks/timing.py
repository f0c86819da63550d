"""Timing of several variants in one process, in turns; and the allocator under which a benchmark runs.

On the CPU a figure is CPU time with one thread, so that other processes disturb it little; on a GPU the time between
two events. Variants take turns, each round in the reverse order of the one before, and medians are kept.
"""

import ctypes.util
import gc
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Protocol

import torch
from machine import allocator

ALLOCATORS = ("auto", "jemalloc", "glibc")
MARK = "MHMOE_BENCHMARK_ALLOCATOR"  # set before the program starts again: it never does so twice
JEMALLOC_CONF = "dirty_decay_ms:-1,muzzy_decay_ms:-1"
# Large buffers come from the heap, which is never given back: no fresh pages from the kernel in every step.
GLIBC_TUNING = {
    "MALLOC_MMAP_THRESHOLD_": str(2**40),
    "MALLOC_MMAP_MAX_": "0",  # for versions of glibc that refuse such a threshold
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
LIBRARY_FOLDERS = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/homebrew/lib")


class Run(Protocol):
    """What is timed: a forward pass, and a backward pass of what it returned."""

    def clear(self) -> None:
        """Forget gradients; not timed."""

    def forward(self) -> Any:
        """The forward pass; returns what `backward` needs."""

    def backward(self, output: Any) -> None:
        """The backward pass."""


class Times(NamedTuple):
    """Milliseconds of one run."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


def time_once(run: Run, device: torch.device) -> Times:
    """One forward and one backward pass."""
    run.clear()
    forward, output = _timed(run.forward, device)
    backward, _ = _timed(lambda: run.backward(output), device)
    return Times(forward, backward)


def measure(
    runs: Dict[str, Run], first: Dict[str, Times], device: torch.device, rounds: int, seconds: Dict[str, float]
) -> Dict[str, List[Times]]:
    """Times of all runs, in turns.

    Args:
        runs: what to time, by name; warmed up already.
        first: the time of each run's warm-up.
        device: where they run.
        rounds: the most rounds.
        seconds: what each run may take altogether. One too slow for that (a slow peer beside fast ones) is not run
            again: its warm-up is its time.
    Returns:
        name -> times, at least one.
    """
    times: Dict[str, List[Times]] = {name: [] for name in runs}
    going = [name for name in runs if first[name].total <= 2000 * seconds[name]]
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name in going:
                times[name].append(time_once(runs[name], device))
                runs[name].clear()
            spent = {name: sum(t.total for t in times[name]) / 1000 for name in going}
            going = [name for name in going if spent[name] * (1 + 1 / len(times[name])) <= seconds[name]][::-1]
    finally:
        if collecting:
            gc.enable()
    return {name: found or [first[name]] for name, found in times.items()}


def _timed(work: Callable[[], Any], device: torch.device):
    """(milliseconds, result)."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        result = work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end), result
    begin = time.process_time()
    result = work()
    return 1000 * (time.process_time() - begin), result


def add_allocator_option(parser) -> None:
    """Adds --allocator."""
    parser.add_argument(
        "--allocator",
        choices=ALLOCATORS,
        default="auto",
        help="malloc to run under: jemalloc, or glibc with large thresholds (default: jemalloc where there is one)",
    )


def restart_under_allocator(choice: str) -> None:
    """Starts this program again under another malloc, once; returns when it has it already.

    Call it first thing, in `if __name__ == "__main__"` only: it replaces the process.

    Raises:
        ValueError: jemalloc was asked for and there is none.
    """
    changes = allocator_environment(choice, os.environ, allocator(), find_jemalloc())
    if changes:
        print(f"timing: starting again under {changes[MARK]}", file=sys.stderr, flush=True)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **changes})


def allocator_environment(choice: str, environment, current: str, library: Optional[str]) -> Dict[str, str]:
    """Environment variables that a new start needs; none when nothing is to be changed.

    Args:
        choice: one of ALLOCATORS.
        environment: of this process.
        current: the allocator it has, see `machine.allocator`.
        library: path of jemalloc, None without one.
    """
    if MARK in environment:
        return {}
    if choice == "jemalloc" and library is None and current != "jemalloc":
        raise ValueError(
            "--allocator jemalloc: no libjemalloc found; install it (Debian: apt-get install libjemalloc2) or take "
            "--allocator glibc"
        )
    wanted = "jemalloc" if choice == "jemalloc" or (choice == "auto" and library is not None) else "glibc"
    if wanted == "jemalloc":
        if current == "jemalloc":
            return {}
        preload = " ".join(filter(None, [library, environment.get("LD_PRELOAD", "")]))
        return {MARK: wanted, "LD_PRELOAD": preload, "MALLOC_CONF": JEMALLOC_CONF}
    if current in ("glibc tuned", "other"):
        return {}
    changes = {MARK: wanted, **GLIBC_TUNING}
    if current == "jemalloc":
        others = [word for word in environment.get("LD_PRELOAD", "").split() if "libjemalloc" not in word]
        changes["LD_PRELOAD"] = " ".join(others)
    return changes


def find_jemalloc() -> Optional[str]:
    """Path or name of the library, None without one or where nothing can be preloaded."""
    if platform.system() != "Linux":
        return None
    found = ctypes.util.find_library("jemalloc")
    if found:
        return found
    for folder in map(Path, LIBRARY_FOLDERS):
        for path in sorted([*folder.glob("libjemalloc.so*"), *folder.glob("*/libjemalloc.so*")]):
            return str(path)
    return None
