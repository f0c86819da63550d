"""SIGTERM or SIGUSR1 to any rank: all ranks finish the update, save, and end in good order; for fairseq 0.12.3.1.

The ranks agree on it within fairseq's own sum of logging outputs, which has one more number in it: no further
collective. It is read after fairseq's check of the gradient norm, for which the host has just waited.

The result is a file in --save-dir, stopped_early.json, which is there if and only if the training was stopped so and
the same command goes on with it. The exit status is 75 (EX_TEMPFAIL: try again), and 0 under torchrun, which would
take anything else for a failure and start the ranks again. docs/clusters.md tells it to people.
"""

import functools
import json
import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer

from fairseq_mhmoe.checkpoint.writing import write_text
from fairseq_mhmoe.integration.distributed import program_of
from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.integration.stop_signals import Requests, numbers_of
from fairseq_mhmoe.integration.together import of_all_ranks, place

MARKER = "stopped_early.json"
STATUS = 75  # EX_TEMPFAIL of sysexits.h
SIGNALS = "SIGTERM,SIGUSR1"  # --stop-signals' default, for models without that option
BATCHES = 16  # of validation, between two looks at what the ranks were told

logger = logging.getLogger(__name__)


class _Job:
    """What this process trains; fairseq's functions are not told."""

    requests = None
    stop = None


def install():
    """Installs the hooks of this file; those of the training program follow when it starts."""
    wrap(distributed_utils, "call_main", call_main)
    wrap(checkpoint_utils, "save_checkpoint", save_checkpoint)
    wrap(Trainer, "_aggregate_logging_outputs", aggregate_logging_outputs)
    wrap(Trainer, "_check_grad_norms", check_grad_norms)
    wrap(Trainer, "valid_step", valid_step)


def call_main(original, cfg, main, **kwargs):
    """Runs a program of fairseq; a training can be stopped by signals.

    Raises:
        SystemExit: status 75 after a training that was stopped early, except under torchrun.
        ValueError: --stop-signals names something else.
    """
    numbers = numbers_of_run(cfg)
    if program_of(main) != "train" or not numbers:
        return original(cfg, main, **kwargs)
    if cfg.checkpoint.no_save or cfg.checkpoint.no_last_checkpoints:
        logger.info("signals end this training at once: without checkpoint_last.pt nothing could go on")
        return original(cfg, main, **kwargs)
    marker = Path(cfg.checkpoint.save_dir, MARKER)
    if distributed_utils.is_master(cfg.distributed_training):
        marker.unlink(missing_ok=True)
    _Job.requests = Requests(numbers, functools.partial(stop_before_the_start, marker))
    result = original(cfg, Stoppable(main), **kwargs)
    stopped = marker.exists() if _Job.stop is None else _Job.stop.stopped  # None: the ranks are children
    if stopped and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise SystemExit(STATUS)
    return result


def numbers_of_run(cfg):
    """The signals that a run listens to."""
    return numbers_of(getattr(getattr(cfg, "model", None), "stop_signals", SIGNALS))


def stop_before_the_start(marker, name):
    """Says that nothing was trained or changed, for a process that has not met the others -> its exit status."""
    with suppress(OSError):  # the thread that calls this has nobody to tell
        marker.parent.mkdir(parents=True, exist_ok=True)
        write_text(marker, json.dumps({"updates": None, "signals": [name], "time": now()}) + "\n")
    return STATUS


def now():
    """The time, for people."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


class Stoppable:
    """fairseq's training, which ends early when a rank is asked to; it pickles, for ranks that fairseq spawns."""

    def __init__(self, main):
        self.main = main

    def __call__(self, cfg, **kwargs):
        """Trains on this rank, and leaves or removes the marker."""
        if _Job.requests is None:  # a process that fairseq has spawned
            marker = Path(cfg.checkpoint.save_dir, MARKER)
            _Job.requests = Requests(numbers_of_run(cfg), functools.partial(stop_before_the_start, marker))
        _Job.requests.is_rank = True
        _Job.stop = stop = Stop(_Job.requests, cfg)
        program = sys.modules[self.main.__module__]
        for name, hook in (("train", train), ("validate", validate), ("validate_and_save", validate_and_save)):
            wrap(program, name, hook)
        try:
            result = self.main(cfg, **kwargs)
        except BaseException:
            stop.remove_marker()
            raise
        if stop.stopped:
            stop.write_marker()
        else:
            stop.remove_marker()
        return result


class Stop:
    """What the ranks of one training know about a request to stop.

    agreed: they stop; the same on all of them at any line of the program.
    stopped: they have, and the training is not finished.
    """

    def __init__(self, requests, cfg):
        self.requests, self.cfg = requests, cfg
        self.told = None  # [] number of ranks that were asked, summed over ranks; not yet read
        self.agreed = self.stopped = self.begun = False
        self.saved_at = None  # updates
        self.batches = 0  # of validation
        self.save_now = None  # f(), while validating
        self.report = {}

    def own(self):
        """Whether this rank was asked."""
        return self.requests.asked is not None

    def hear(self, told):
        """Takes what a reduction over all ranks has brought."""
        self.told = told if self.told is None else self.told + told

    def decide(self):
        """Reads it; on a device the host waits for what is queued there."""
        if place()[1] == 1:
            self.agreed = self.agreed or self.own()
        elif self.told is not None:
            self.agreed = self.agreed or bool(self.told > 0)
            self.told = None

    def ask_all(self):
        """The same by a collective, where there is time for one."""
        self.agreed = self.agreed or any(of_all_ranks(self.own()))

    def save(self, trainer, epoch_itr):
        """Saves unless this update was saved already. Collective."""
        updates = trainer.get_num_updates()
        if self.saved_at != updates:
            path = checkpoint_utils.save_checkpoint(self.cfg.checkpoint, trainer, epoch_itr, None)
            if path is not None and hasattr(trainer.task, "post_save"):
                trainer.task.post_save(path, updates)
        self.describe(updates)
        if not self.cfg.checkpoint.write_checkpoints_asynchronously:
            self.write_marker()

    def describe(self, updates):
        """Notes who was asked and what was reached. Collective."""
        asked = [f"{name} to rank {rank}" for rank, name in enumerate(of_all_ranks(self.requests.asked)) if name]
        self.report = {"updates": updates, "signals": asked, "time": now()}

    def finish(self, updates):
        """Says that the training ends here."""
        self.stopped = True
        asked = ", ".join(self.report["signals"])
        logger.info(
            f"stopped early after {updates} updates ({asked}): the same command goes on from there; see {self.marker()}"
        )

    def marker(self):
        """Path of the file that says so."""
        return Path(self.cfg.checkpoint.save_dir, MARKER)

    def write_marker(self):
        """Writes it, on rank 0."""
        if distributed_utils.is_master(self.cfg.distributed_training):
            write_text(self.marker(), json.dumps(self.report) + "\n")

    def remove_marker(self):
        """Removes it, on rank 0."""
        if distributed_utils.is_master(self.cfg.distributed_training):
            self.marker().unlink(missing_ok=True)


def aggregate_logging_outputs(original, trainer, logging_outputs, *stats, ignore=False):
    """Sums logging outputs over ranks, and whether they were asked to stop."""
    stop = _Job.stop
    if stop is None:
        return original(trainer, logging_outputs, *stats, ignore=ignore)
    outputs, sums = original(trainer, logging_outputs, *stats, float(stop.own()), ignore=ignore)
    *sums, told = sums
    stop.hear(told)
    return outputs, sums


def check_grad_norms(original, trainer, grad_norm):
    """Checks gradient norms; the host waits for them here, and reads the other number at no cost."""
    original(trainer, grad_norm)
    if _Job.stop is not None:
        _Job.stop.decide()


def save_checkpoint(original, cfg, trainer, epoch_itr, val_loss):
    """Saves, and remembers when."""
    saved = original(cfg, trainer, epoch_itr, val_loss)
    if _Job.stop is not None:
        _Job.stop.saved_at = trainer.get_num_updates()
    return saved


def train(original, cfg, trainer, task, epoch_itr):
    """Trains for one epoch; a request that came while the training was prepared is answered first."""
    stop = _Job.stop
    if stop is not None and not stop.begun:
        stop.begun = True
        stop.ask_all()
        if stop.agreed:
            stop.describe(trainer.get_num_updates())
            stop.finish(trainer.get_num_updates())
            return [None], True
    return original(cfg, trainer, task, epoch_itr)


def validate(original, cfg, trainer, task, epoch_itr, subsets):
    """Validates; when the ranks stop, what was trained is saved before, or in the middle of it."""
    stop = _Job.stop
    if stop is None:
        return original(cfg, trainer, task, epoch_itr, subsets)
    stop.save_now, stop.batches = lambda: stop.save(trainer, epoch_itr), 0
    try:
        if stop.agreed:
            stop.save_now()
        return original(cfg, trainer, task, epoch_itr, subsets)
    finally:
        stop.save_now = None


def valid_step(original, trainer, *args, **kwargs):
    """One batch of validation; all ranks make as many."""
    stop = _Job.stop
    # one that fairseq makes again, after this rank ran out of memory, is within another: ranks would count differently
    number = None if stop is None else stop.batches + 1
    logged = original(trainer, *args, **kwargs)
    if stop is not None and stop.save_now is not None and not stop.agreed:
        stop.batches = number
        if stop.batches % BATCHES == 0:
            stop.decide()
            if stop.agreed:
                stop.save_now()
    return logged


def validate_and_save(original, cfg, trainer, task, epoch_itr, valid_subsets, end_of_epoch):
    """What follows an update; when the ranks have agreed to stop, that is a checkpoint, and the end."""
    stop, updates = _Job.stop, trainer.get_num_updates()
    if stop is None:
        return original(cfg, trainer, task, epoch_itr, valid_subsets, end_of_epoch)
    stop.decide()
    valid_losses, finished = original(cfg, trainer, task, epoch_itr, valid_subsets, end_of_epoch)
    if stop.saved_at == updates:
        stop.ask_all()  # a save takes long enough for signals, and far longer than this
    epochs = cfg.optimization.max_epoch
    finished_epochs = end_of_epoch and 0 < epochs < epoch_itr.next_epoch_idx
    if not stop.agreed or finished or finished_epochs:
        return valid_losses, finished
    stop.save(trainer, epoch_itr)
    stop.finish(updates)
    return valid_losses, True
