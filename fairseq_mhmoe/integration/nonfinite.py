"""An update with NaN or infinity ends the training, or is left out on all ranks; for the trainer of fairseq 0.12.3.1.

Stock code looks at the norm of the gradients alone, and its message says neither which update it was nor where. Here
loss and norm come to the host in one copy, which takes the place of the one that stock code tests the norm with. Both
are the same numbers on all ranks, so that all decide alike. An update is left out as stock code leaves out one that
overflowed in float16: no step, no average (EMA), no metrics, and it is not counted.
"""

import logging
import math
import os

import torch
from fairseq import trainer
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import metrics
from fairseq.nan_detector import NanDetector
from fairseq.tasks import FairseqTask

from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.integration.run_settings import run_setting
from fairseq_mhmoe.integration.together import of_all_ranks

KEY = "nonfinite"  # of the metric, and of the counts in a checkpoint
REMEDY = (
    "no step was made, and checkpoints are as they were (crash.pt is for inspection); lower --lr, lengthen "
    "--warmup-updates, train in a wider precision (--bf16 instead of fp16), or leave such updates out with "
    "--on-nonfinite skip"
)

logger = logging.getLogger(__name__)


class _Update:
    """What is known of the update at hand; tasks and fairseq's detector of NaN know no trainer."""

    mine = []  # losses of this rank's batches
    all = []  # losses summed over the ranks, once they are
    found = []  # (module, "forward" or "backward") where the detector saw the first value


def install():
    """Installs the hooks of this file."""
    wrap(trainer.Trainer, "__init__", start_trainer)
    wrap(trainer.Trainer, "train_step", train_step)
    wrap(trainer.Trainer, "_aggregate_logging_outputs", aggregate_logging_outputs)
    wrap(trainer.Trainer, "clip_grad_norm", clip_grad_norm)
    wrap(trainer.Trainer, "save_checkpoint", save_crash)
    wrap(trainer.Trainer, "state_dict", state_dict)
    wrap(trainer.Trainer, "load_checkpoint", load_checkpoint)
    wrap(FairseqTask, "train_step", task_train_step)
    wrap(NanDetector, "_detect", detect)


class NotFinite(FloatingPointError):
    """An update that can't be made: what is known of it, and what to do."""

    def __str__(self):
        return ": ".join(self.args)


class Counts:
    """How many updates were left out: of the whole training, and since the last that was made."""

    def __init__(self, total=0, in_a_row=0):
        self.total, self.in_a_row = total, in_a_row


def start_trainer(original, self, cfg, *args, **kwargs):
    """Starts the trainer.

    Raises:
        ValueError: updates are to be left out under settings by which ranks step on their own.
    """
    self.mhmoe_nonfinite = Counts()
    if run_setting(cfg, "on_nonfinite") == "skip":
        for wrong, option in (
            (cfg.common.amp, "--amp, which leaves such updates out by itself"),
            (cfg.optimization.use_bmuf, "--use-bmuf"),
            (cfg.distributed_training.ddp_backend == "slowmo", "--ddp-backend slowmo"),
            (cfg.common.tpu, "--tpu"),
        ):
            if wrong:
                raise ValueError(f"--on-nonfinite skip can't be combined with {option}: leave one of them out")
    original(self, cfg, *args, **kwargs)


def task_train_step(original, task, *args, **kwargs):
    """One batch, whose loss is kept for `clip_grad_norm`."""
    output = original(task, *args, **kwargs)
    if "loss" in output[2]:
        _Update.mine.append(output[2]["loss"])
    return output


def aggregate_logging_outputs(original, self, logging_outputs, *args, **kwargs):
    """What criterions log, summed over the ranks; the loss is kept."""
    outputs, extra = original(self, logging_outputs, *args, **kwargs)
    _Update.all = [output["loss"] for output in outputs if "loss" in output]
    return outputs, extra


def detect(original, self, tensor, name, backward):
    """fairseq's test of a module's output; the first that fails is kept."""
    message = original(self, tensor, name, backward)
    if message is not None:
        _Update.found.append((name, "backward" if backward else "forward"))
    return message


def train_step(original, self, samples, raise_oom=False):
    """One update; the number of those left out so far is logged once there is one.

    Raises:
        FloatingPointError: as in `clip_grad_norm`, with the module in which the first value appeared.
    """
    _Update.mine, _Update.all, _Update.found = [], [], []
    try:
        output = original(self, samples, raise_oom)
    except FloatingPointError as error:
        if not _Update.found:
            raise
        module, direction = _Update.found[0]
        where = f"seen first in the {direction} pass of {module or 'the model'}"
        what, advice = error.args if isinstance(error, NotFinite) else ("gradients are not finite", str(error))
        raise NotFinite(f"{what}, {where}", advice) from error
    if self.mhmoe_nonfinite.total:
        metrics.log_scalar(KEY, self.mhmoe_nonfinite.total, weight=0, priority=710)
    return output


def clip_grad_norm(original, self, clip_norm):
    """Clips the gradients -> their norm, on the host.

    Raises:
        FloatingPointError: loss or norm is not finite, and the training is to end; on all ranks.
        OverflowError: the same, and the update is to be left out; or fairseq's scale of the loss is to be halved.
    """
    common, optimization = self.cfg.common, self.cfg.optimization
    alone = optimization.use_bmuf or self.cfg.distributed_training.ddp_backend == "slowmo"
    if common.amp or self.tpu or alone:
        return original(self, clip_norm)
    scaler = getattr(self.optimizer, "scaler", None)
    scale = dict(vars(scaler)) if scaler is not None else {}
    losses = _Update.all or _Update.mine
    loss = sum(losses) if losses else 0.0
    try:
        norm = original(self, clip_norm)
    except (OverflowError, FloatingPointError):
        if run_setting(self.cfg, "on_nonfinite") == "stop" or math.isfinite(loss):
            raise
        vars(scaler).update(scale)  # a smaller scale does not cure the loss itself
        norm = torch.tensor(math.nan)
    norm = torch.as_tensor(norm)
    # one copy from the device for both
    norm, loss = torch.stack([norm, torch.as_tensor(loss).to(norm)]).cpu()
    if norm.isfinite() and loss.isfinite():
        self.mhmoe_nonfinite.in_a_row = 0
        return norm
    raise verdict(self, norm.item(), loss.item())


def save_crash(original, self, filename, extra_state):
    """Saves a checkpoint; crash.pt, which is written beside an error, must not hide it by one of its own."""
    try:
        return original(self, filename, extra_state)
    except OSError as error:
        if os.path.basename(filename) != "crash.pt":
            raise
        logger.warning(f"{filename} could not be written: {error}")


def verdict(trainer, norm, loss):
    """The exception for an update that is not finite; counts it and says what is known. Collective."""
    what = describe(norm, loss, of_all_ranks(look(trainer)))
    text = f"update {trainer.get_num_updates() + 1}: {what}, at learning rate {trainer.get_lr():.3g}"
    broken = next((name for name, p in trainer.get_model().named_parameters() if not p.isfinite().all()), None)
    broken = next((name for name in of_all_ranks(broken) if name is not None), None)
    if broken is not None:
        return NotFinite(
            text,
            f"the weights themselves are not finite (first {broken}), so no update can be made any more; go on "
            "from a checkpoint that was saved before (--restore-file), with a lower --lr",
        )
    if run_setting(trainer.cfg, "on_nonfinite") == "stop":
        return NotFinite(text, REMEDY)
    counts, most = trainer.mhmoe_nonfinite, run_setting(trainer.cfg, "max_nonfinite")
    counts.total, counts.in_a_row = counts.total + 1, counts.in_a_row + 1
    if counts.in_a_row >= most:
        return NotFinite(
            text,
            f"that makes {counts.in_a_row} updates in a row (--max-nonfinite {most}), which is no accident any "
            "more; lower --lr, lengthen --warmup-updates, and look at the data of these updates",
        )
    if distributed_utils.is_master(trainer.cfg.distributed_training):
        logger.warning(f"{text}: left out, {counts.in_a_row} in a row (--max-nonfinite {most}), {counts.total} in all")
    if hasattr(trainer.optimizer, "_multiply_factor"):
        trainer.optimizer._multiply_factor = 1.0  # in bfloat16 only a step takes this update's factor away
    return OverflowError("the update is left out (--on-nonfinite skip)")


def look(trainer):
    """(is this rank's loss finite, names of parameters whose gradients are not, number of parameters)."""
    bad, count = [], 0
    for name, parameter in trainer.get_model().named_parameters():
        count += parameter.grad is not None
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            bad.append(name)
    return all(math.isfinite(loss) for loss in _Update.mine), bad, count


def describe(norm, loss, looks):
    """What was not finite, in words; looks: of all ranks."""
    if not math.isfinite(loss):
        ranks = [str(rank) for rank, (finite, _, _) in enumerate(looks) if not finite]
        place = f" on rank {', '.join(ranks)} of {len(looks)}" if ranks and len(looks) > 1 else ""
        return f"the loss is {loss}{place}"
    rank, (_, bad, count) = max(enumerate(looks), key=lambda item: len(item[1][1]))
    if not bad:
        return f"the norm of the gradients is {norm}"
    names = f"all {count} parameters" if len(bad) == count else f"{len(bad)} of {count} parameters, first {bad[0]}"
    return f"the norm of the gradients is {norm}, for those of {names}" + (f" (rank {rank})" if len(looks) > 1 else "")


def state_dict(original, self):
    """The trainer's state, with the counts once there is something to count."""
    state = original(self)
    if self.mhmoe_nonfinite.total:
        state["extra_state"][KEY] = dict(vars(self.mhmoe_nonfinite))
    return state


def load_checkpoint(original, self, *args, **kwargs):
    """Loads a checkpoint; a training that goes on goes on counting."""
    extra_state = original(self, *args, **kwargs)
    if extra_state is not None and self.get_num_updates() > 0:
        self.mhmoe_nonfinite = Counts(**extra_state.get(KEY, {}))
    return extra_state
