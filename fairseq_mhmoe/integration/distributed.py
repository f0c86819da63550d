"""Several processes with the stock programs of fairseq 0.12.3.1, on GPUs (nccl) or on the CPU (gloo).

fairseq looks at a launcher's variables only when its own world size, by default the number of GPUs that it sees, is
above one: on the CPU, and with one GPU per node, R processes would silently train R models into one folder. Elsewhere
it divides by the number of GPUs, or hands a device number to a wrapper that has no device, and it knows no time-out.
"""

import functools
import logging
import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from fairseq import models, utils
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer

from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.integration.launchers import find_place

CPU_BACKENDS = ("legacy_ddp", "no_c10d")
TIMEOUT = 600  # --moe-timeout's default, for programs and models without that option

logger = logging.getLogger(__name__)


def install():
    """Installs the hooks of this file."""
    wrap(distributed_utils, "call_main", call_main)
    wrap(distributed_utils, "distributed_init", distributed_init)
    wrap(distributed_utils, "all_gather_list", all_gather_list)
    wrap(models, "DistributedFairseqModel", check_ddp_backend)
    wrap(Trainer, "__init__", check_not_alone)


def program_of(main):
    """Which program of fairseq a main function belongs to: "train", "eval_lm", ...; None for others."""
    path = Path(getattr(getattr(main, "__code__", None), "co_filename", ""))
    return path.stem if path.parent.name == "fairseq_cli" else None


def call_main(original, cfg, main, **kwargs):
    """Starts a program of fairseq as one rank of the job that a launcher started, if one did.

    Raises:
        ValueError: a program that can't run in several processes, or the launcher's variables are incomplete.
    """
    place, program = find_place(), program_of(main)
    if place is not None and place.world_size > 1 and program == "interactive":
        raise ValueError(
            f"fairseq-interactive answers one person, and {place.launcher} started {place.world_size} processes: "
            "start it without the launcher"
        )
    if place is not None and cfg.distributed_training.distributed_init_method is None:
        join(cfg, place)
    if program == "eval_lm" and cfg.distributed_training.distributed_init_method is None:
        evaluate_in_one_process(cfg)
    return original(cfg, main, **kwargs)


def join(cfg, place):
    """Writes this process's place into the configuration.

    Raises:
        ValueError: more processes on this machine than GPUs.
    """
    distributed = cfg.distributed_training
    distributed.distributed_world_size = place.world_size
    if place.world_size == 1:
        return
    use_cuda = torch.cuda.is_available() and not cfg.common.cpu
    distributed.device_id = device_of(place) if use_cuda else 0
    distributed.distributed_init_method = place.init_method
    distributed.distributed_rank = place.rank
    distributed.distributed_no_spawn = True
    distributed.distributed_backend = distributed.distributed_backend if use_cuda else "gloo"


def device_of(place):
    """The number of a process's GPU."""
    count = torch.cuda.device_count()
    if place.local_rank < count:
        return place.local_rank
    if count == 1 and place.launcher != "torchrun":
        return 0  # Slurm may show each task its own GPU only
    raise ValueError(
        f"local rank {place.local_rank}, but this machine has {count} GPUs: start {count} processes or fewer on each "
        f"machine (torchrun --nproc-per-node {count}), or train on the CPU with --cpu"
    )


def evaluate_in_one_process(cfg):
    """Without a launcher, fairseq would start one process per GPU, and each would print its share as the result."""
    if cfg.distributed_training.distributed_world_size > 1:
        logger.info("evaluating in one process; start fairseq-eval-lm with torchrun to use several GPUs")
        cfg.distributed_training.distributed_world_size = 1


def timeout_of(cfg):
    """Seconds that a rank waits for others."""
    return getattr(getattr(cfg, "model", None), "moe_timeout", TIMEOUT)


def distributed_init(original, cfg, *args, **kwargs):
    """Joins the process group, with a time-out, on this rank's own GPU.

    Raises:
        ValueError: --moe-timeout is not above zero.
        ConnectionError: the others did not come.
    """
    seconds = timeout_of(cfg)
    if seconds <= 0:
        raise ValueError(f"--moe-timeout {seconds}; expected a number of seconds above 0, for example {TIMEOUT}")
    if torch.cuda.is_available() and not cfg.common.cpu:
        torch.cuda.set_device(cfg.distributed_training.device_id)
    timeout = timedelta(seconds=seconds)
    dist.init_process_group = with_new_keys(timeout, with_timeout(timeout, dist.init_process_group))
    # groups that fairseq and the experts make later wait no longer than the first one
    dist.new_group = with_timeout(timeout, dist.new_group)
    try:
        return original(cfg, *args, **kwargs)
    except dist.DistError as error:
        settings = cfg.distributed_training
        raise ConnectionError(
            f"the {settings.distributed_world_size} processes did not meet at {settings.distributed_init_method} "
            f"within --moe-timeout {seconds:g} seconds: check that all were started, MASTER_ADDR, MASTER_PORT and "
            f"firewalls ({(str(error).splitlines() or [''])[0]})"
        ) from error


def with_timeout(timeout, function):
    """A function of torch.distributed whose `timeout` is given unless the caller gives one."""
    function = getattr(function, "mhmoe_original", function)

    @functools.wraps(function)
    def timed(*args, **kwargs):
        return function(*args, **{"timeout": timeout, **kwargs})

    timed.mhmoe_original = function
    return timed


def with_new_keys(timeout, function):
    """init_process_group, which after a restart by torchrun does not read what the ranks before it have left.

    torchrun keeps one store over its restarts (torch 2.5 to 2.14 at least), and ranks that find the addresses of the
    last ones there wait for them in vain.
    """
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or restarts == "0":
        return function

    @functools.wraps(function)
    def joined(*args, init_method=None, **kwargs):
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.PrefixStore(f"restart_{restarts}", dist.TCPStore(*address, is_master=False, timeout=timeout))
        return function(*args, store=store, **kwargs)

    return joined


def all_gather_list(_original, data, group=None, max_size=None):
    """Every rank's `data`, in a list: on the CPU too, and of any size (fairseq's buffers are CUDA's and 16 KiB)."""
    group = group or distributed_utils.get_global_group()
    gathered = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, utils.move_to_cpu(data), group=group)
    return gathered


def check_not_alone(original, trainer, cfg, *args, **kwargs):
    """Builds a trainer, unless several would train on their own into one folder.

    Raises:
        ValueError: a launcher started several processes, and this one did not join them.
    """
    place = find_place()
    if place is not None and place.world_size > 1 and not dist.is_initialized() and not cfg.common.tpu:
        raise ValueError(
            f"{place.launcher} started {place.world_size} processes, and this one would train alone: use "
            "`-m fairseq_mhmoe.cli.hydra_train` in place of fairseq-hydra-train, or add launch=torchrun "
            "(launch=torchrun_cpu without GPUs) to its options"
        )
    original(trainer, cfg, *args, **kwargs)


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
