"""fairseq-generate in several processes, for fairseq 0.12.3.1: the output of one process, written once.

There, each process generates everything and writes over the others' file. Here rank 0 runs the stock program over all
batches, prints, scores and counts; the hypotheses of every R-th batch come from the rank whose turn it is, which
generates while the others do. Beam search takes a different number of steps on each rank, so that every one holds all
experts and nothing is exchanged but the hypotheses. With --sampling, each rank draws its own random numbers.
"""

import functools
import itertools
import os
import sys
from argparse import Namespace
from contextlib import contextmanager

import torch
import torch.distributed as dist
from fairseq import options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed_utils

from fairseq_mhmoe.integration.distributed import program_of
from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.integration.launchers import find_place
from fairseq_mhmoe.moe import parallel


def install():
    """Installs the hooks of this file."""
    wrap(options, "parse_args_and_arch", parse_args_and_arch)
    wrap_program()


def parse_args_and_arch(original, *args, **kwargs):
    """Reads the command line; the program is there by now, if this package was imported before it."""
    wrap_program()
    return original(*args, **kwargs)


def wrap_program():
    """Wraps fairseq-generate's main function, which is called directly, without a hook of fairseq's before it."""
    for name in ("fairseq_cli.generate", "__main__"):
        program = sys.modules.get(name)
        if program_of(getattr(program, "main", None)) == "generate":
            wrap(program, "main", main)


def main(original, cfg):
    """Generates in this process, or as one rank of the job that a launcher started."""
    place = find_place()
    if place is None or place.world_size == 1 or dist.is_initialized():
        return original(cfg)
    if isinstance(cfg, Namespace):
        cfg = convert_namespace_to_omegaconf(cfg)
    return distributed_utils.call_main(cfg, functools.partial(generate, original))


def generate(stock, cfg):
    """This rank's part: rank 0 does what stock fairseq does, the others hand it their hypotheses."""
    if torch.cuda.is_available() and not cfg.common.cpu:
        torch.cuda.set_device(cfg.distributed_training.device_id)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    cfg.distributed_training.distributed_world_size, cfg.distributed_training.distributed_rank = 1, 0
    with parallel.all_experts_here(), tasks_wrapped_with(receive if rank == 0 else send):
        if rank == 0:
            return stock(cfg)
        # the shares of ranks are what fairseq calls shards
        cfg.distributed_training.distributed_world_size, cfg.distributed_training.distributed_rank = world_size, rank
        if cfg.common.seed is not None:
            cfg.common.seed += rank
        with open(os.devnull, "w") as nowhere:
            try:
                sys.modules[stock.__module__]._main(cfg, nowhere)
            except ShareDone:
                return None


@contextmanager
def tasks_wrapped_with(change):
    """Tasks that fairseq sets up inside are changed by change(task)."""
    setup_task = tasks.setup_task

    def changed(*args, **kwargs):
        task = setup_task(*args, **kwargs)
        change(task)
        return task

    tasks.setup_task = changed
    try:
        yield
    finally:
        tasks.setup_task = setup_task


def receive(task):
    """Makes rank 0's task take the hypotheses of batch i from rank i modulo R."""
    inference_step, turns = task.inference_step, itertools.cycle(range(dist.get_world_size()))

    def step(*args, **kwargs):
        rank = next(turns)
        if rank == 0:
            return inference_step(*args, **kwargs)
        hypotheses = [None]
        dist.recv_object_list(hypotheses, src=rank)
        return hypotheses[0]

    task.inference_step = step


def send(task):
    """Makes another rank's task hand its hypotheses to rank 0 and leave the program after its share."""
    inference_step, get_batch_iterator = task.inference_step, task.get_batch_iterator

    def step(*args, **kwargs):
        hypotheses = inference_step(*args, **kwargs)
        dist.send_object_list([utils.apply_to_sample(lambda tensor: tensor.cpu(), hypotheses)], dst=0)
        return hypotheses

    task.inference_step = step
    task.get_batch_iterator = lambda *args, **kwargs: Share(get_batch_iterator(*args, **kwargs))


class ShareDone(Exception):
    """A rank has generated its share; what fairseq does after it is for rank 0."""


class Share:
    """A rank's batches, as fairseq-generate uses them; ends in ShareDone."""

    def __init__(self, epoch):
        self.epoch = epoch

    def next_epoch_itr(self, **kwargs):
        """Starts."""
        self.batches = self.epoch.next_epoch_itr(**kwargs)
        return self

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        yield from self.batches
        raise ShareDone
