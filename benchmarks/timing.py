"""Timing of several variants in one process, in turns.

On the CPU a figure is CPU time with one thread, so that other processes disturb it little; on a GPU the time between
two events. Variants take turns, each round in the reverse order of the one before, and medians are kept.
"""

import gc
import time
from typing import Any, Callable, Dict, List, NamedTuple, Protocol

import torch


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
    runs: Dict[str, Run],
    first: Dict[str, Times],
    device: torch.device,
    rounds: int,
    seconds: Dict[str, float],
    least: Dict[str, int],
) -> Dict[str, List[Times]]:
    """Times of all runs, in turns.

    A run that gets fewer rounds than others has them spread over all the time, so that all see the same machine.

    Args:
        runs: what to time, by name; warmed up already.
        first: the time of each run's warm-up, from which its number of rounds follows.
        device: where they run.
        rounds: the most rounds.
        seconds: what each run may take altogether.
        least: how often each runs in any case. One with 0 (a slow peer beside fast ones) may be too slow to run again:
            then its warm-up is its time.
    Returns:
        name -> times, at least one.
    """
    fitting = {name: round(1000 * seconds[name] / max(first[name].total, 1e-6)) for name in runs}
    turns = {name: min(rounds, max(least[name], fitting[name])) for name in runs}
    most = max(turns.values(), default=0)
    times: Dict[str, List[Times]] = {name: [] for name in runs}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(1, most + 1):
            due = [name for name in runs if turn * turns[name] // most > (turn - 1) * turns[name] // most]
            for name in due if turn % 2 else reversed(due):
                times[name].append(time_once(runs[name], device))
                runs[name].clear()
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
