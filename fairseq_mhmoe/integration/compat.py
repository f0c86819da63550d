"""What keeps fairseq 0.12.3.1 from running with numpy 2 and torch >= 2.6.

* `np.compat.long` and `np.int` were removed from numpy and are still used by TokenBlockDataset (break mode eos),
  LanguagePairDataset and data_utils: generation and evaluation by sentence need them.
* torch.load refuses pickles with code (weights_only is its default since 2.6). A checkpoint of fairseq's has none, but
  an argparse.Namespace where an optimizer or schedule has no dataclass (sgd): that is let through. For the rest,
  torch's page of advice becomes one line.
* broadcast_object, needed to resume in several processes, sends an omegaconf config through torch.load and is refused.
"""

import argparse
import errno
import pickle
import types

import numpy as np
import torch
import torch.distributed as dist
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils

from fairseq_mhmoe.integration.hooks import wrap


def install():
    """Installs the repairs of this file."""
    restore_numpy_aliases()
    wrap(checkpoint_utils, "load_checkpoint_to_cpu", load_checkpoint_explained)
    wrap(distributed_utils, "_broadcast_object_slow", broadcast_object)


def restore_numpy_aliases():
    """Gives numpy back the two names that fairseq looks up."""
    if not hasattr(np, "compat"):
        np.compat = types.SimpleNamespace(long=int)
    if not hasattr(np, "int"):
        np.int = int


def load_checkpoint_explained(original, path, *args, **kwargs):
    """Loads a checkpoint; raises ValueError with the path and the remedy if it is empty or would have to run code."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return original(path, *args, **kwargs)
    except (pickle.UnpicklingError, EOFError, RuntimeError, OSError) as error:
        # torch's reader of a truncated archive raises RuntimeError, or seeks before its start
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ValueError(
            f"{path} is not a checkpoint of this program: it is damaged, or reading it would run code that it holds. "
            "Restore it from a copy, or take an earlier checkpoint of the same folder (--restore-file). "
            f"The reader said: {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error


def broadcast_object(_original, obj, src_rank, group, dist_device):
    """Sends one object between the ranks of this job, which trust each other; other ranks' `obj` is ignored."""
    box = [obj]
    dist.broadcast_object_list(box, src=src_rank, group=group, device=dist_device)
    return box[0]
