"""Tells a criterion that reports on routing when an update and a validation are done, for fairseq 0.12.3.1.

A criterion sees batches only: neither the number of the update nor TensorBoard's folder, nor the end of a validation
set. One that has a `routing_report` is told of them here, on the rank that writes the log.
"""

from fairseq.distributed import utils as distributed_utils
from fairseq.logging import metrics
from fairseq.logging.progress_bar import TensorboardProgressBarWrapper
from fairseq.trainer import Trainer

from fairseq_mhmoe.integration.hooks import wrap

TRAINING = ("train", "train_inner")
_validated = []  # report and meters of the validation set at hand


def install():
    """Installs the hooks of this file."""
    wrap(Trainer, "train_step", train_step)
    wrap(Trainer, "valid_step", valid_step)
    wrap(TensorboardProgressBarWrapper, "print", print_statistics)


def report_of(trainer):
    """The report of a trainer's criterion; None on all ranks but the first, and of other criterions."""
    if not distributed_utils.is_master(trainer.cfg.distributed_training):
        return None
    return getattr(trainer.get_criterion(), "routing_report", None)


def train_step(original, self, *args, **kwargs):
    """One update, if there is no overflow."""
    report = report_of(self)
    if report is not None:
        warmup = getattr(self.cfg.lr_scheduler, "warmup_updates", 0) or 0
        report.before_update(self.get_num_updates(), self.cfg.common.tensorboard_logdir, warmup)
    output = original(self, *args, **kwargs)
    if report is not None and output is not None:
        report.after_update(self.get_num_updates())
    return output


def valid_step(original, self, *args, **kwargs):
    """One batch of a validation set, whose meters are the innermost ones."""
    output = original(self, *args, **kwargs)
    report = report_of(self)
    if report is not None:
        _validated[:] = report, metrics.get_active_aggregators()[-1]
    return output


def print_statistics(original, bar, stats, tag=None, step=None):
    """Writes the statistics of an epoch or, at its end, of a validation set."""
    original(bar, stats, tag=tag, step=step)
    if tag not in TRAINING and _validated:
        report, meters = _validated
        _validated.clear()
        report.after_validation(meters, bar.tensorboard_logdir, tag, step)
