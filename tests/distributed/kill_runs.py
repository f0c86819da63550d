"""Kills trainings with experts over several processes, mostly while they save, until they have come to their end.

    python -m tests.distributed.kill_runs --kills 40 --processes 2

A run is one training of a few updates that saves after each. Its ranks are killed (SIGKILL, one or all of them) at
random moments and started again with the same command. At its end it must hold the very bits of a run that nobody
disturbed: loss, weights, moments, average, position in the data. After every kill each checkpoint that has a name is
verified, so half a checkpoint would be seen before anybody loads it. scripts/torture.sh is the command for people.
"""

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from data_prep.fairseq_index import IndexWriter
from fairseq_mhmoe.checkpoint.reading import load_merged, verify

from .jobs import ForkedJob, TorchrunJob
from .launcher import train_words
from .watched_training import digest

UPDATES = 8
SHARE_IN_SAVES = 0.75  # of the kills that are planned
PAUSE = 0.06  # seconds at each stage of a save
SECONDS = 120  # for one start
GRACE = 30  # for ranks whose neighbour was killed to end by themselves
GRACE_AT_START = 2  # the same while the ranks look for each other: then torchrun would end them, forks wait
ALL = -1

STAGES = ("save", "shard", "fsync", "rename", "manifest", "dense", "commit", "copies", "clean")
STAGES_OF_OTHERS = ("save", "shard", "fsync", "rename")  # rank 0 does the rest
OLD = re.compile(r"checkpoint_\d+_\d+\.pt")
COMPARED = ("model", "last_optimizer_state", "mhmoe_parameters")
COMPARED_EXTRA = ("ema", "train_iterator", "val_loss", "best")


@dataclass
class Plan:
    """A kill, `delay` seconds after rank `watched` came to `stage` for the `nth` time or, without one, the start."""

    victim: int  # a rank, not always the one that is watched, or ALL
    watched: int = 0
    stage: str = ""
    nth: int = 1
    delay: float = 0.0


@dataclass
class Run:
    """What happened to one training."""

    # {"victim", "stage": where the watched rank was, "" outside of a save, "planned"}
    kills: list = field(default_factory=list)
    starts: int = 0
    lingered: list = field(default_factory=list)  # output of jobs that had to be ended after a kill
    differences: list = field(default_factory=list)
    half_checkpoints: list = field(default_factory=list)
    failures: list = field(default_factory=list)  # ends with an error that nobody caused

    @property
    def good(self):
        return not (self.differences or self.half_checkpoints or self.failures or self.lingered)


def write_data(folder):
    """A folder for task gpt with made-up tokens: 60 training and 4 validation documents."""
    folder.mkdir()
    (folder / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(46)))
    rng = np.random.default_rng(1)
    for split, documents in (("train", 60), ("valid", 4)):
        with IndexWriter(folder / split, np.uint16) as writer:
            for _ in range(documents):
                writer.add(np.append(rng.integers(4, 50, 40), 2))
    return folder


def command(data, save_dir):
    """Words of the training: dropout, two batches per update, an average of weights, the last two checkpoints kept."""
    return train_words(
        data, save_dir, max_update=UPDATES, optimizer="adam", lr=0.01, dropout=0.1, update_freq=2, clip_norm=1.0,
        store_ema=True, ema_decay=0.9, ema_update_freq=2, save_interval_updates=1, keep_interval_updates=2,
    )  # fmt: skip


def make_plan(rng, processes, duration):
    """A random kill."""
    victim = rng.choice([*range(processes), ALL])
    if rng.random() >= SHARE_IN_SAVES:
        return Plan(victim, delay=rng.uniform(0, duration))
    stage = rng.choice(STAGES)
    watched = rng.randrange(processes) if stage in STAGES_OF_OTHERS else 0
    return Plan(victim, watched, stage, rng.randint(1, 3), rng.uniform(0, PAUSE / 3))


def stages_reached(log):
    """[(rank, stage), ...] so far."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(line.split()[0]), line.split()[1]) for line in lines]


def wait_for(plan, job, log):
    """Waits for the moment of a kill; False when the job ended before."""
    start = time.monotonic()
    while job.running():
        if plan.stage:
            if stages_reached(log).count((plan.watched, plan.stage)) >= plan.nth:
                time.sleep(plan.delay)
                return job.running()
        elif time.monotonic() - start >= plan.delay:
            return True
        if time.monotonic() - start > SECONDS:
            return False
        time.sleep(0.002)
    return False


def kill(plan, job, log, run):
    """Kills, and notes in which stage of a save."""
    job.kill(None if plan.victim == ALL else plan.victim)
    reached = [stage for rank, stage in stages_reached(log) if rank == plan.watched]
    stage = reached[-1] if reached and reached[-1] != "saved" else ""
    run.kills.append({"victim": "all" if plan.victim == ALL else plan.victim, "stage": stage, "planned": plan.stage})


def train_until_the_end(new_job, folder, rng, processes, duration, most_kills):
    """One run; `new_job(log)` starts the command."""
    run = Run()
    while True:
        log = folder / f"stages-{run.starts}.txt"
        job = new_job(log)
        run.starts += 1
        try:
            plan = make_plan(rng, processes, duration) if len(run.kills) < most_kills else None
            if plan is not None and wait_for(plan, job, log):
                kill(plan, job, log, run)
                started = bool(stages_reached(log))
                if job.wait(GRACE if started else GRACE_AT_START) and started:
                    run.lingered.append(job.describe())
                job.end()
                run.half_checkpoints += half_checkpoints(folder / "run")
                continue
            job.wait(SECONDS)
            if any(status != 0 for status in job.statuses()):
                run.failures.append(job.describe())
            return run
        finally:
            job.end()


def half_checkpoints(save_dir):
    """What is wrong with the checkpoints that have a name."""
    found = [str(path) for path in save_dir.glob("*.damaged")]
    for path in save_dir.glob("checkpoint*.pt"):
        try:
            verify(path)
        except (ValueError, OSError) as error:
            found.append(str(error))
    return found


def differences(expected_dir, found_dir):
    """Where the last checkpoints of two runs differ, and what the second left lying about."""
    states = []
    for folder in (expected_dir, found_dir):
        state = load_merged(folder / "checkpoint_last.pt")
        chosen = {key: state[key] for key in COMPARED}
        chosen["extra_state"] = {key: state["extra_state"][key] for key in COMPARED_EXTRA}
        states.append(digest({**chosen, "history": state["optimizer_history"][-1]}))
    expected, found = states
    different = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    expected, found = ({path.name for path in folder.iterdir()} for folder in (expected_dir, found_dir))
    different += [f"{name} is missing" for name in sorted(expected - found)]
    # killed in its very last save, a run has no later one to delete an old checkpoint
    different += [f"{name} was left" for name in sorted(found - expected) if not OLD.fullmatch(name)]
    return different


def torture(folder, kills, processes, seed, job_class, yardstick=None):
    """Runs until `kills` kills were made -> list of Run; yardstick: the class for the undisturbed run, if another."""
    rng = random.Random(seed)
    data = write_data(folder / "data")

    def starter(save_dir, start=job_class):
        words = command(data, save_dir)
        return lambda log: start(words, processes, {"MHMOE_SAVE_PAUSE": str(PAUSE), "MHMOE_SAVE_LOG": str(log)})

    expected = folder / "undisturbed" / "run"
    expected.parent.mkdir()
    begin = time.monotonic()
    undisturbed = train_until_the_end(starter(expected, yardstick or job_class), expected.parent, rng, processes, 0, 0)
    duration = (time.monotonic() - begin) / 2  # the first start also starts the server of forks
    if undisturbed.failures:
        raise RuntimeError(f"the undisturbed run failed: {undisturbed.failures[0]}")

    runs = []
    while (made := sum(len(run.kills) for run in runs)) < kills:
        place = folder / f"killed-{len(runs)}"
        place.mkdir()
        most = min(rng.randint(3, 10), kills - made)
        run = train_until_the_end(starter(place / "run"), place, rng, processes, duration, most)
        if not run.failures:
            run.differences = differences(expected, place / "run")
        runs.append(run)
        print(f"run {len(runs)}: {len(run.kills)} kills, {run.starts} starts, {verdict(run)}", flush=True)
    return runs


def verdict(run):
    """A run in a few words."""
    wrong = {
        "DIFFERENT": run.differences,
        "HALF CHECKPOINTS": run.half_checkpoints,
        "FAILED": run.failures,
        "RANKS HUNG": run.lingered,
    }
    return ", ".join(word for word, found in wrong.items() if found) or "equal"


def summary(runs, settings, seconds):
    """The figures for a report."""
    kills = [kill for run in runs for kill in run.kills]
    return {
        **settings,
        "kills": len(kills),
        "inside_a_save": sum(bool(kill["stage"]) for kill in kills),
        "stages": {stage or "outside": count for stage, count in Counter(kill["stage"] for kill in kills).items()},
        "victims": dict(Counter(str(kill["victim"]) for kill in kills)),
        "runs": len(runs),
        "restarts": sum(run.starts - 1 for run in runs),
        "all_good": all(run.good for run in runs),
        "seconds": round(seconds, 1),
        "details": [asdict(run) for run in runs],
    }


def table(figures):
    """The summary for people."""
    counts = figures["stages"]
    good = "every run ended with the bits of the undisturbed one"
    lines = [f"{stage:>10}  {counts.get(stage, 0)}" for stage in (*STAGES, "outside")]
    share = 100 * figures["inside_a_save"] / max(figures["kills"], 1)
    return "\n".join([
        "kills by stage of the save", *lines,
        f"{figures['kills']} kills ({share:.0f} % inside a save), {figures['restarts']} restarts, "
        f"{figures['runs']} runs on {figures['processes']} processes, {figures['seconds']} s",
        good if figures["all_good"] else "SOMETHING WENT WRONG, see the lines above and --json",
    ])  # fmt: skip


def main(words=None):
    """The program; exit status 1 when a run differs."""
    parser = argparse.ArgumentParser(prog="kill_runs", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5, help="how many in all")
    parser.add_argument("--processes", type=int, default=2, help="ranks; 4 experts are spread over them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--launcher", choices=("fork", "torchrun"), default="fork",
                        help="fork: from a process that has imported everything, faster")  # fmt: skip
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--keep", action="store_true", help="keep the folders of the runs")
    chosen = parser.parse_args(words)
    if chosen.kills < 1 or chosen.processes < 1:
        parser.error("--kills and --processes: at least 1")
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    begin = time.monotonic()
    try:
        jobs = {"fork": ForkedJob, "torchrun": TorchrunJob}
        runs = torture(folder, chosen.kills, chosen.processes, chosen.seed, jobs[chosen.launcher])
    finally:
        if chosen.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder)
    settings = {"processes": chosen.processes, "seed": chosen.seed, "launcher": chosen.launcher}
    figures = summary(runs, settings, time.monotonic() - begin)
    print(table(figures))
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if figures["all_good"] else 1


if __name__ == "__main__":
    sys.exit(main())
