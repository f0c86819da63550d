"""Throughput, model FLOPs utilisation, memory and waiting in the log of a training, for fairseq 0.12.3.1.

fairseq's `wps` counts what a criterion divides by (tokens with a loss, or examples), over all time between two lines,
validation and saving included. Here tokens that the model reads are counted, over the time of updates: from asking for
the batches to the end of the step. Tokens of all ranks come with fairseq's own sum of the logging outputs; memory and
waiting of the slowest rank are agreed on once an interval. docs/monitoring.md defines every figure.
"""

import logging
import sys
import time
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from fairseq import checkpoint_utils
from fairseq.data.iterators import GroupedIterator
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from fairseq.trainer import Trainer

from fairseq_mhmoe.integration.device_peaks import peak_tflops, precision_of
from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.integration.memory import available_gib, resident_gib

TOKENS, IMAGES = "mhmoe_tokens", "mhmoe_images"  # in logging outputs, of models that read more than criterions count
PRIORITY = 91  # behind fairseq's wps
PRIORITY_DETAIL = 1600
TERA = 1e12

logger = logging.getLogger(__name__)


class _Clock:
    """Where the time of this process's training goes."""

    def __init__(self):
        self.began = None  # when the first batch was asked for
        self.ended = 0.0  # the last update
        self.waited = self.spent = 0.0  # seconds for data; of updates, waiting included; since the last line's update
        self.waited_interval = self.spent_interval = 0.0
        self.tokens = 0.0  # of the whole run
        self.outputs = []  # logging outputs of the update at hand
        self.gpu_peak = 0.0
        self.flops_per_token = self.peak = None  # FLOPs; FLOP/s of all devices
        self.devices = 1


class _Job:
    """What is measured of the training in this process, of which there is one."""

    clock = _Clock()


def install():
    """Installs the hooks of this file."""
    wrap(Trainer, "__init__", start_trainer)
    wrap(Trainer, "train_step", train_step)
    wrap(Trainer, "_reduce_and_log_stats", reduce_and_log_stats)
    wrap(FairseqTask, "train_step", count_batch)
    wrap(GroupedIterator, "__next__", next_batches)
    wrap(checkpoint_utils, "save_checkpoint", save_checkpoint)


def start_trainer(original, self, cfg, task, model, *args, **kwargs):
    """Starts the trainer, and says what utilisation is measured against."""
    original(self, cfg, task, model, *args, **kwargs)
    clock = _Job.clock = _Clock()
    clock.devices = self.data_parallel_world_size
    known = getattr(model, "training_flops_per_token", None)
    clock.flops_per_token = known() if known is not None else None
    device = torch.cuda.get_device_name(self.device) if self.cuda else "the CPU"
    precision = precision_of(cfg.common)
    given = getattr(cfg.model, "peak_tflops", None)
    peak = given or (peak_tflops(device, precision) if self.cuda else None)
    clock.peak = peak and peak * TERA * clock.devices
    program = program_of_training()
    if program is not None:
        wrap(program, "validate", validate)
    if clock.flops_per_token is None or not distributed_utils.is_master(cfg.distributed_training):
        return
    cost = f"{clock.flops_per_token / 1e9:.4g} GFLOP of training per token"
    if peak is None:
        logger.info(
            f"{cost}; no mfu in the log: the peak of {device} in {precision} is not known, --peak-tflops gives it"
        )
    else:
        source = "--peak-tflops" if given else f"{device} in {precision}"
        logger.info(f"{cost}; mfu is a share of {peak:g} TFLOP/s ({source}) x {clock.devices}")


def program_of_training():
    """fairseq's training program, which looks its functions up in itself; None where another one trains."""
    modules = (sys.modules.get(name) for name in ("fairseq_cli.train", "__main__"))
    return next((module for module in modules if hasattr(module, "validate_and_save")), None)


def next_batches(original, iterator):
    """The batches of an update; how long they took is known afterwards."""
    start = time.perf_counter()
    clock = _Job.clock
    clock.began = clock.began or start
    try:
        return original(iterator)
    finally:
        seconds = time.perf_counter() - start
        clock.waited += seconds
        clock.spent += seconds


def count_batch(original, task, sample, model, *args, **kwargs):
    """A training step of one batch; what the model read of it is added up with what the criterion logs."""
    loss, sample_size, logged = original(task, sample, model, *args, **kwargs)
    count = getattr(model, "count_tokens", None)
    if count is not None:
        logged[TOKENS], logged[IMAGES] = count(**sample["net_input"])
    return loss, sample_size, logged


def reduce_and_log_stats(original, self, logging_outputs, sample_size, grad_norm=None):
    """Logs an update or a batch of validation; the sums over ranks of an update are kept."""
    if grad_norm is not None:
        _Job.clock.outputs = logging_outputs or []
    return original(self, logging_outputs, sample_size, grad_norm)


def train_step(original, self, *args, **kwargs):
    """One update, and its time. One that is not made (an overflow) takes time, and its tokens do not count."""
    clock, start = _Job.clock, time.perf_counter()
    output = original(self, *args, **kwargs)
    now = time.perf_counter()
    clock.spent += now - max(start, clock.ended)  # a step that fairseq repeats is within another
    clock.began = clock.began or start
    clock.ended = now
    if output is not None and clock.outputs:
        log_update(self, clock)
        if self.get_num_updates() % self.cfg.common.log_interval == 0:
            log_interval(self, clock)
    return output


def log_update(trainer, clock):
    """Logs tokens and seconds of an update, from which the rates of an interval and of an epoch are derived."""
    outputs, clock.outputs = clock.outputs, []
    tokens = float(sum(output.get(TOKENS, output.get("ntokens", 0)) for output in outputs))
    images = float(sum(output.get(IMAGES, 0) for output in outputs))
    clock.tokens += tokens
    metrics.log_scalar_sum("_tokens", tokens)
    metrics.log_scalar_sum("_update_s", clock.spent)
    log_rate("tokens_per_s", "_tokens", 1, PRIORITY)
    log_rate("tokens_per_s_device", "_tokens", clock.devices, PRIORITY_DETAIL)
    if images:
        metrics.log_scalar_sum("_images", images)
        log_rate("images_per_s", "_images", 1, PRIORITY)
    run = clock.tokens / (clock.ended - clock.began)
    metrics.log_scalar("run_tokens_per_s", rounded(run), weight=0, priority=PRIORITY_DETAIL)
    if clock.flops_per_token:
        log_rate("tflops_per_device", "_tokens", clock.devices * TERA / clock.flops_per_token, PRIORITY)
    if clock.flops_per_token and clock.peak:
        share = clock.flops_per_token / clock.peak
        log_rate("mfu", "_tokens", 1 / share, PRIORITY)
        metrics.log_scalar("run_mfu", rounded(run * share), weight=0, priority=PRIORITY_DETAIL)
    if trainer.cuda_env is not None:  # fairseq has read the peak of this update, and begun a new one
        free = metrics.get_meter("train", "gb_free")
        clock.gpu_peak = max(clock.gpu_peak, trainer.cuda_env.total_memory_in_GB - free.val)
    clock.waited_interval += clock.waited
    clock.spent_interval += clock.spent
    clock.waited = clock.spent = 0.0


def log_rate(name, amount, divisor, priority):
    """Logs a sum of an interval, an epoch, ... per second of its updates, over a constant."""
    metrics.log_derived(name, partial(rate, amount, divisor), priority)


def rate(amount, divisor, meters):
    """0 when the meters were just reset."""
    seconds = meters["_update_s"].sum
    return rounded(meters[amount].sum / seconds / divisor) if seconds else 0.0


def rounded(number):
    """Four digits are enough for a log."""
    return float(f"{number:.4g}")


def log_interval(trainer, clock):
    """Logs memory and waiting since the last line, of the rank that has most of it. Collective."""
    available = available_gib()
    reserved = torch.cuda.memory_reserved(trainer.device) / 2**30 if trainer.cuda else 0.0
    share = clock.waited_interval / clock.spent_interval if clock.spent_interval else 0.0
    figures = [share, resident_gib(), -available if available is not None else 0.0, clock.gpu_peak, reserved]
    weight = clock.spent_interval
    if trainer.data_parallel_world_size > 1 and dist.is_initialized():
        most = torch.tensor(figures, dtype=torch.float64, device=trainer.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        figures = most.tolist()
    share, resident, available, peak, reserved = figures
    metrics.log_scalar("data_wait", share, weight, priority=PRIORITY, round=3)
    logged = {"ram_gb": resident, "ram_free_gb": -available}
    if trainer.cuda:
        logged |= {"gpu_peak_gb": peak, "gpu_reserved_gb": reserved}
    for name, amount in logged.items():
        metrics.log_scalar(name, amount, weight=0, priority=PRIORITY_DETAIL, round=2)
    clock.gpu_peak = clock.waited_interval = clock.spent_interval = 0.0


def save_checkpoint(original, cfg, *args, **kwargs):
    """Saves; the seconds count for the interval that follows."""
    with timed("save_s"):
        return original(cfg, *args, **kwargs)


def validate(original, *args, **kwargs):
    """Validates; the seconds count for the interval that follows."""
    with timed("valid_s"):
        return original(*args, **kwargs)


@contextmanager
def timed(name):
    """Logs the seconds of a block that succeeds, for the epoch and for the interval whose line comes next."""
    start = time.perf_counter()
    yield
    with metrics.aggregate("train_inner"):
        metrics.log_scalar_sum(name, time.perf_counter() - start, priority=PRIORITY_DETAIL, round=2)
