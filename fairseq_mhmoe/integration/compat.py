"""What keeps fairseq 0.12.3.1 from running with numpy 2, torch >= 2.6 and bfloat16 on CPU or GPU.

* `np.compat.long` and `np.int` were removed from numpy and are still used by TokenBlockDataset (break mode eos),
  LanguagePairDataset and data_utils: generation and evaluation by sentence need them.
* `--bf16` on the command line turns on `tpu`, and the trainer then asks for torch_xla.
* torch.load refuses pickles with code (weights_only is its default since 2.6; a checkpoint of fairseq's needs none):
  its page of advice becomes one line.
* broadcast_object, needed to resume in several processes, sends an omegaconf config through torch.load and is refused.
"""

import pickle
import sys
import types

import numpy as np
import torch.distributed as dist
from fairseq import checkpoint_utils, options
from fairseq.distributed import utils as distributed_utils

from fairseq_mhmoe.integration.hooks import wrap


def install():
    """Installs the repairs of this file."""
    restore_numpy_aliases()
    wrap(options, "parse_args_and_arch", parse_args_without_tpu)
    wrap(checkpoint_utils, "load_checkpoint_to_cpu", load_checkpoint_explained)
    wrap(distributed_utils, "_broadcast_object_slow", broadcast_object)


def restore_numpy_aliases():
    """Gives numpy back the two names that fairseq looks up."""
    if not hasattr(np, "compat"):
        np.compat = types.SimpleNamespace(long=int)
    if not hasattr(np, "int"):
        np.int = int


def parse_args_without_tpu(original, parser, input_args=None, *args, **kwargs):
    """Parses the command line; bfloat16 means a TPU only where --tpu is given too."""
    parsed = original(parser, input_args, *args, **kwargs)
    namespace = parsed[0] if isinstance(parsed, tuple) else parsed
    words = sys.argv[1:] if input_args is None else input_args
    if getattr(namespace, "bf16", False) and "--tpu" not in words:
        namespace.tpu = False
    return parsed


def load_checkpoint_explained(original, path, *args, **kwargs):
    """Loads a checkpoint; raises ValueError with the path and the remedy if it is empty or would have to run code."""
    try:
        return original(path, *args, **kwargs)
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{path} is not a checkpoint of this program: it is damaged, or reading it would run code that it holds. "
            "Restore it from a copy, or take an earlier checkpoint of the same folder (--restore-file)."
        ) from error


def broadcast_object(_original, obj, src_rank, group, dist_device):
    """Sends one object between the ranks of this job, which trust each other; other ranks' `obj` is ignored."""
    box = [obj]
    dist.broadcast_object_list(box, src=src_rank, group=group, device=dist_device)
    return box[0]
