"""Carrying out the runs of a comparison: several at a time, with their progress; the first failure ends the others."""

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from fairseq_mhmoe.cli.demo_programs import log_figures, minutes, say
from fairseq_mhmoe.cli.reproduce_runs import Origin, Run, carry_out

REPORTS = 10  # progress lines of a run, at most, beside its validations
EARLY = 0.02  # of all work: until then programs have mostly been starting, which tells no pace
KILL_AFTER = 30.0  # seconds that a program has to end when asked


class Stopped(Exception):
    """A run was not begun, since another one had failed or the user wanted an end."""


class Processes:
    """The programs that are at work, so that all can be ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen] = []
        self._stopping = False

    def add(self, process: subprocess.Popen) -> None:
        """Remember a program that was just started; it is ended at once where all are to end."""
        with self._lock:
            self._running = [other for other in self._running if other.poll() is None]
            self._running.append(process)
            if self._stopping:
                process.terminate()

    def begin_no_more(self) -> None:
        """From now on no run begins, and a program that is started all the same is ended at once."""
        with self._lock:
            self._stopping = True

    def stop(self) -> None:
        """End all programs, and those that are still to be started; what they have saved stays."""
        self.begin_no_more()
        with self._lock:
            running = [process for process in self._running if process.poll() is None]
            for process in running:
                process.terminate()
        deadline = time.monotonic() + KILL_AFTER
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    @property
    def stopping(self) -> bool:
        """Whether `begin_no_more` or `stop` was called."""
        return self._stopping


class Progress:
    """Says how far each run is, and how long all of them will still take.

    Work is counted in training FLOPs: models of different cost then make a common estimate.
    """

    def __init__(self, runs: Sequence[Run], clock: Callable[[], float] = time.monotonic):
        self._total = sum(run.flops for run in runs)
        self._share = {run.name: 0.0 for run in runs}  # of each run, at its last line
        self._before = dict(self._share)  # what earlier calls had done
        self._flops = {run.name: run.flops for run in runs}
        self._clock, self._start = clock, clock()
        self._lock = threading.Lock()
        self._reported: dict[str, int] = {}

    def skip(self, run: Run) -> None:
        """A run that was carried out before."""
        self._share[run.name] = self._before[run.name] = 1.0

    def line(self, run: Run, text: str) -> None:
        """A line that fairseq-train wrote."""
        valid, inner = log_figures(text, "valid"), log_figures(text, "train_inner")
        if inner is None and valid is None:
            return
        update = int(inner["num_updates"] if valid is None else valid["valid_num_updates"])
        with self._lock:
            if run.name not in self._reported:
                # a resumed run starts near its first line; a new one at 0
                self._reported[run.name] = 0
                if update > 2 * run.updates // REPORTS:
                    self._before[run.name] = update / run.updates
            self._share[run.name] = update / run.updates
            place = update * REPORTS // run.updates
            if valid is None and place == self._reported[run.name]:
                return
            self._reported[run.name] = place
            figures = figures_of(inner, valid)
            say(f"      {run.name}: update {update:5d} of {run.updates}   {figures}   {self.all_runs()}")

    def all_runs(self) -> str:
        """ "41 % of all, about 52:10 left", from the pace since this call began."""
        done = sum(self._share[name] * flops for name, flops in self._flops.items())
        here = done - sum(self._before[name] * flops for name, flops in self._flops.items())
        share = f"{100 * done / self._total:.0f} % of all"
        if here < EARLY * self._total:
            return share
        return f"{share}, about {minutes((self._total - done) / here * (self._clock() - self._start))} left"


def figures_of(inner: dict | None, valid: dict | None) -> str:
    """Of a line of fairseq's log: "valid ppl    12.72", "train ppl 14.20   812 tokens/s"; of answers their score."""
    name = "vqa_score" if "vqa_score" in (inner or {}) else "ppl"
    if valid is not None:
        return f"valid {name} {float(valid[f'valid_{name}']):8.2f}"
    return f"train {name} {float(inner[name]):8.2f}   {float(inner['wps']):6.0f} tokens/s"


def carry_out_all(runs: Sequence[Run], origin: Origin, jobs: int, work: Callable = carry_out) -> None:
    """Train and evaluate what is not done yet, `jobs` runs at a time.

    Args:
        work: what carries out one run; see `reproduce_runs.carry_out`.
    Raises:
        StepFailed: the first run that failed; the others were ended, and go on when called again. The same goes for
            whatever interrupts the caller, KeyboardInterrupt for one.
    """
    progress, processes = Progress(runs), Processes()
    todo = []
    for number, run in enumerate(runs, 1):
        if run.is_done(origin):
            say(f"[{number} of {len(runs)}] {run.name}: done before")
            progress.skip(run)
        else:
            todo.append((number, run))

    def one(number: int, run: Run) -> None:
        if processes.stopping:
            raise Stopped
        say(f"[{number} of {len(runs)}] {run.name}: begins")
        try:
            work(run, origin, lambda line: progress.line(run, line), processes.add)
        except BaseException:
            processes.begin_no_more()  # here: this thread may take the next run before the caller has seen the failure
            raise
        say(f"[{number} of {len(runs)}] {run.name}: done")

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(one, *item) for item in todo]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = next((future for future in futures if future in done and future.exception() is not None), None)
            if failed is not None:
                failed.result()
        except BaseException:
            processes.stop()
            for future in futures:
                future.cancel()
            raise
