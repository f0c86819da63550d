"""What keeps fairseq 0.12.3.1 from running with numpy 2 and torch >= 2.6.

* `np.compat.long` and `np.int` were removed from numpy and are still used by TokenBlockDataset (break mode eos),
  LanguagePairDataset and data_utils: generation and evaluation by sentence need them.
* broadcast_object, needed to resume in several processes, sends an omegaconf config through torch.load and is refused.
"""

import types

import numpy as np
import torch.distributed as dist
from fairseq.distributed import utils as distributed_utils

from fairseq_mhmoe.integration.hooks import wrap


def install():
    """Installs the repairs of this file."""
    restore_numpy_aliases()
    wrap(distributed_utils, "_broadcast_object_slow", broadcast_object)


def restore_numpy_aliases():
    """Gives numpy back the two names that fairseq looks up."""
    if not hasattr(np, "compat"):
        np.compat = types.SimpleNamespace(long=int)
    if not hasattr(np, "int"):
        np.int = int


def broadcast_object(_original, obj, src_rank, group, dist_device):
    """Sends one object between the ranks of this job, which trust each other; other ranks' `obj` is ignored."""
    box = [obj]
    dist.broadcast_object_list(box, src=src_rank, group=group, device=dist_device)
    return box[0]
