"""Notices when the loss leaves its usual range, and goes back when it stays away; for the trainer of fairseq 0.12.3.1.

The loss is the one that the log shows, which fairseq brings to the host once per update and which is the same number on
all ranks: nothing is exchanged or waited for. What the range is made of is in every checkpoint, so that a training that
goes on decides as if it had never stopped.
"""

import logging

from fairseq import trainer
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import metrics

from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.integration.loss_range import LossRange
from fairseq_mhmoe.integration.rewind import check_settings, go_back
from fairseq_mhmoe.integration.run_settings import run_setting

KEY = "loss_spikes"  # of the metric, and of the state in a checkpoint

logger = logging.getLogger(__name__)


def install():
    """Installs the hooks of this file."""
    wrap(trainer.Trainer, "__init__", start_trainer)
    wrap(trainer.Trainer, "train_step", train_step)
    wrap(trainer.Trainer, "state_dict", state_dict)
    wrap(trainer.Trainer, "load_checkpoint", load_checkpoint)
    wrap(trainer.Trainer, "get_train_iterator", get_train_iterator)


class Spikes:
    """The spikes of one training.

    total: number of updates above the range; began: the first update of the spike at hand, None without one;
    rewinds: what was undone, dictionaries as rewind.py makes them.
    """

    def __init__(self, cfg, losses=(), high=(), total=0, began=None, rewinds=()):
        window, threshold = run_setting(cfg, "loss_spike_window"), run_setting(cfg, "loss_spike_threshold")
        self.range = LossRange(window, threshold, losses, high)
        self.lasting = run_setting(cfg, "loss_spike_updates")
        self.speaks = distributed_utils.is_master(cfg.distributed_training)
        self.total, self.began, self.rewinds = total, began, list(rewinds)

    def observe(self, update, loss):
        """Takes the loss of an update -> whether the spike lasts since just now."""
        middle, limit, high = self.range.middle(), self.range.limit(), self.range.high
        if not self.range.observe(loss):
            if self.began is not None:
                self.say(
                    logging.INFO, f"the loss spike is over at update {update}: loss {loss:g}, highest {max(high):g}"
                )
            self.began = None
            return False
        self.total += 1
        if self.began is None:
            self.began = update
            self.say(
                logging.WARNING,
                f"loss spike: {loss:g} at update {update}; usual is {middle:g}, up to {limit:g} "
                f"(--loss-spike-threshold {self.range.threshold:g}, --loss-spike-window {self.range.window})",
            )
        if not self.range.high:
            self.say(logging.WARNING, f"the loss has stayed up since update {self.began}: from now on that is usual")
            self.began = None
        lasts = len(self.range.high) == self.lasting
        if lasts:
            self.say(
                logging.WARNING,
                f"the loss spike lasts: {self.lasting} updates since {self.began}, loss {loss:g}, usual {middle:g}",
            )
        return lasts

    def say(self, level, text):
        """Logs on one rank what all know."""
        if self.speaks:
            logger.log(level, text)

    def state(self):
        """What the constructor takes again, as plain data."""
        return {**self.range.state(), "total": self.total, "began": self.began, "rewinds": list(self.rewinds)}


def start_trainer(original, self, cfg, *args, **kwargs):
    """Starts the trainer.

    Raises:
        ValueError: spikes are to be undone, and no checkpoints are written from which that can be done.
    """
    policy = run_setting(cfg, "on_loss_spike")
    if policy == "rewind":
        check_settings(cfg)
    self.mhmoe_spikes = None if policy == "off" else Spikes(cfg)
    original(self, cfg, *args, **kwargs)


def train_step(original, self, samples, raise_oom=False):
    """One update; None where it was undone together with those before it.

    Raises:
        FloatingPointError: on all ranks: a spike lasts once more after --max-rewinds.
    """
    output = original(self, samples, raise_oom)
    spikes = self.mhmoe_spikes
    if spikes is None or output is None or "loss" not in output:
        return output
    lasts = spikes.observe(self.get_num_updates(), float(output["loss"]))
    if spikes.total:
        metrics.log_scalar(KEY, spikes.total, weight=0, priority=711)
    if lasts and run_setting(self.cfg, "on_loss_spike") == "rewind" and go_back(self):
        return None
    return output


def state_dict(original, self):
    """The trainer's state, with the losses that the range is made of."""
    state = original(self)
    if self.mhmoe_spikes is not None:
        state["extra_state"][KEY] = self.mhmoe_spikes.state()
    return state


def load_checkpoint(original, self, *args, **kwargs):
    """Loads a checkpoint; a training that goes on knows its losses."""
    extra_state = original(self, *args, **kwargs)
    if extra_state is not None and self.get_num_updates() > 0 and self.mhmoe_spikes is not None:
        self.mhmoe_spikes = Spikes(self.cfg, **extra_state.get(KEY, {}))
    return extra_state


def get_train_iterator(original, self, *args, **kwargs):
    """The iterator over an epoch's batches, which the trainer keeps: its position is part of a checkpoint."""
    self.mhmoe_epoch_itr = original(self, *args, **kwargs)
    return self.mhmoe_epoch_itr
