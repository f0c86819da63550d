"""Several processes with the stock programs of fairseq 0.12.3.1, on GPUs (nccl) or on the CPU (gloo).

fairseq looks at torchrun's variables only when its own world size, by default the number of GPUs that it sees, is above
one: on the CPU, and with one GPU per node, R processes would silently train R models into one folder. Elsewhere it
divides by the number of GPUs, or hands a device number to a wrapper that has no device.
fairseq-eval-lm prints the share of one process as if it were the whole result, so it runs in one process.
"""

import logging
import os

import torch
from fairseq import models
from fairseq.distributed import utils as distributed_utils

from fairseq_mhmoe.integration.hooks import wrap

TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
CPU_BACKENDS = ("legacy_ddp", "no_c10d")

logger = logging.getLogger(__name__)


def install():
    """Installs the hooks of this file."""
    wrap(distributed_utils, "call_main", call_main)
    wrap(models, "DistributedFairseqModel", check_ddp_backend)


def call_main(original, cfg, main, **kwargs):
    """Starts a program of fairseq as one rank of the job that torchrun started, if it did."""
    if main.__module__ == "fairseq_cli.eval_lm":
        evaluate_in_one_process(cfg)
    elif launched_by_torchrun() and cfg.distributed_training.distributed_init_method is None:
        join_torchrun(cfg)
    return original(cfg, main, **kwargs)


def launched_by_torchrun():
    """True when this process is one that torchrun started."""
    return all(name in os.environ for name in TORCHRUN_VARIABLES)


def join_torchrun(cfg):
    """Writes torchrun's variables into the configuration.

    Raises:
        ValueError: more processes on this machine than GPUs.
    """
    distributed = cfg.distributed_training
    distributed.distributed_world_size = int(os.environ["WORLD_SIZE"])
    if distributed.distributed_world_size == 1:
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    use_cuda = torch.cuda.is_available() and not cfg.common.cpu
    if use_cuda and local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {local_rank}, but this machine has {torch.cuda.device_count()} GPUs: start torchrun with "
            f"--nproc-per-node {torch.cuda.device_count()} or fewer, or train on the CPU with --cpu"
        )
    distributed.distributed_init_method = "env://"
    distributed.distributed_rank = int(os.environ["RANK"])
    distributed.distributed_no_spawn = True
    distributed.device_id = local_rank if use_cuda else 0
    if not use_cuda:
        distributed.distributed_backend = "gloo"


def evaluate_in_one_process(cfg):
    """Keeps fairseq-eval-lm to one process.

    Raises:
        ValueError: torchrun started several.
    """
    if launched_by_torchrun() and int(os.environ["WORLD_SIZE"]) > 1:
        raise ValueError(
            f"fairseq-eval-lm does not add up results over processes, and torchrun started {os.environ['WORLD_SIZE']}: "
            "start it without torchrun"
        )
    if cfg.distributed_training.distributed_world_size > 1:
        logger.info("evaluating in one process: fairseq-eval-lm does not add up results over processes")
        cfg.distributed_training.distributed_world_size = 1


def check_ddp_backend(original, args, model, process_group, device, **kwargs):
    """Wraps the model for data parallelism; on the CPU only the wrapper that needs no device number will do.

    Raises:
        ValueError: another --ddp-backend on the CPU.
    """
    if torch.device(device).type == "cpu" and args.ddp_backend not in CPU_BACKENDS:
        raise ValueError(
            f"--ddp-backend {args.ddp_backend} needs GPUs: use --ddp-backend legacy_ddp on the CPU "
            "(pytorch_ddp is fairseq's default)"
        )
    return original(args, model, process_group, device, **kwargs)
