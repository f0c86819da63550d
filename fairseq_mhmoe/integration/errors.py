"""Errors of users as one line, for the programs of fairseq 0.12.3.1, which would print their whole traceback.

What this package refuses (a ValueError or OSError that it raises itself), numbers that are not finite, and a checkpoint
that does not fit the model end a program with one line and status 1. LOGLEVEL=DEBUG shows the traceback. Everything
else is a defect, and its traceback is wanted. In several processes each line starts with the rank.
"""

import logging
import os
import re
import sys
import traceback
from pathlib import Path

import torch.distributed as dist
from fairseq.distributed import utils as distributed_utils

from fairseq_mhmoe.integration.failures import describe
from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.integration.launchers import find_place

PACKAGE = Path(__file__).resolve().parents[1]
# tokenizers are read with the code that prepared the data
PACKAGES = {PACKAGE, PACKAGE.with_name("data_prep")}
# torch repeats an exception of a process that loads data with that process's traceback as its text
OF_WORKER = re.compile(r"Caught (\w+) in DataLoader worker process \d+\.\nOriginal Traceback")
FRAME = re.compile(r'^  File "(.+)", line \d+', re.MULTILINE)
OTHER_ARCHITECTURE = "please ensure that the architectures match"
NOT_FINITE = (
    "no step was made with them, and checkpoints are as they were (crash.pt is for inspection); lower --lr, lengthen "
    "--warmup-updates, or train in a wider precision (--bf16 instead of fp16)"
)


def install():
    """Installs the hook of this file; last, around all others."""
    wrap(distributed_utils, "call_main", call_main_readably)


def call_main_readably(original, cfg, main, **kwargs):
    """Runs a program of fairseq.

    Raises:
        SystemExit: status 1, after a line on standard error, where the user can help it.
    """
    try:
        return original(cfg, main, **kwargs)
    except Exception as error:
        message, rank = message_for_users(error), rank_prefix()
        debugging = os.environ.get("LOGLEVEL", "").upper() == "DEBUG"
        sys.stdout.flush()
        if message is not None and not debugging:
            layer = f"{error.layer}: " if getattr(error, "layer", "") else ""
            print(f"{rank}{Path(sys.argv[0]).name}: error: {layer}{message}", file=sys.stderr, flush=True)
        elif rank:
            print(f"{rank}{describe(error)}", file=sys.stderr, flush=True)
        if dist.is_initialized() and rank:
            end_at_once(error if message is None or debugging else None)
        if message is None or debugging:
            raise
        raise SystemExit(1) from None


def end_at_once(defect):
    """Ends a rank without tidying up, which may wait for ranks that wait for this one; a defect shows its traceback."""
    if defect is not None:
        traceback.print_exception(defect)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def rank_prefix():
    """ "rank 1: " in a job of several processes, else nothing."""
    if dist.is_initialized():
        return f"rank {dist.get_rank()}: " if dist.get_world_size() > 1 else ""
    try:
        place = find_place()
    except ValueError:  # perhaps the very error that is to be printed
        return ""
    return f"rank {place.rank}: " if place is not None and place.world_size > 1 else ""


def message_for_users(error):
    """The line for an error that the user can help, None for a defect."""
    if isinstance(error, FloatingPointError):
        text = str(error)
        return text if ":" in text else f"{text}: {NOT_FINITE}"
    if OTHER_ARCHITECTURE in str(error):
        return str(error)
    if isinstance(error, (ValueError, OSError)):
        return str(error) if raised_here(error) else message_of_worker(str(error))
    return None


def message_of_worker(text):
    """What this project's code said in a process that loads data; None where the exception came from elsewhere."""
    worker, frames = OF_WORKER.match(text), FRAME.findall(text)
    if worker is None or not frames or not is_ours(frames[-1]):
        return None
    return text.rpartition(f"\n{worker[1]}: ")[2].strip() or None


def raised_here(error):
    """Whether the error comes from this project's code."""
    frame = error.__traceback__
    while frame.tb_next is not None:
        frame = frame.tb_next
    return is_ours(frame.tb_frame.f_code.co_filename)


def is_ours(file_name):
    """Whether a file of code belongs to this project."""
    return not PACKAGES.isdisjoint(Path(file_name).resolve().parents)
