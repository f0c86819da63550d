"""Looks whether a checkpoint fits on its disk before it is written, with the trainer of fairseq 0.12.3.1.

A file is written under another name first, so a full disk never costs a complete checkpoint; it costs the time until
somebody looks. At the start a training is refused that could not save once, and one that has room for a few checkpoints
says so. Before each save all ranks together compare what they will write with what is free, and end with a line instead
of filling the disk. Quotas show only when a write fails: that ends all ranks with a line, too.
"""

import errno
import logging
import os
from pathlib import Path

from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from fairseq_mhmoe.integration import checkpoint_contents as contents
from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.integration.run_settings import run_setting
from fairseq_mhmoe.integration.together import of_all_ranks
from fairseq_mhmoe.moe.parallel import group_of

GB = 10**9
MARGIN = 1.02  # names, shapes and counters beside the numbers
FEW = 3  # checkpoints: with room for less there is a warning
ELEMENT = 4  # bytes: fairseq saves half precision as float32
FULL = {errno.ENOSPC: "no space left", errno.EDQUOT: "quota exceeded"}
ADVICE = (
    "free some space, or keep fewer checkpoints (--keep-interval-updates, --keep-last-epochs, --no-epoch-checkpoints)"
)

logger = logging.getLogger(__name__)


def install():
    """Installs the hooks of this file; around those that load and save."""
    wrap(checkpoint_utils, "load_checkpoint", load_checkpoint)
    wrap(checkpoint_utils, "save_checkpoint", save_checkpoint)


def load_checkpoint(original, cfg, trainer, **kwargs):
    """Starts a training that can save. Collective.

    Raises:
        OSError: on all ranks: there is no room for a single checkpoint.
    """
    loaded = original(cfg, trainer, **kwargs)
    if not is_looked_at(cfg, trainer):
        return loaded
    one, free = needed(cfg, trainer, files=1), free_bytes(cfg, trainer)
    check_room(cfg, one, free, "one checkpoint takes")
    if trainer.is_data_parallel_master and free < FEW * one:
        logger.warning(
            f"--save-dir {cfg.save_dir} has {free / GB:.3g} GB free, and a checkpoint takes about {one / GB:.3g} GB: "
            f"there is room for {int(free // one)}; {ADVICE}"
        )
    return loaded


def save_checkpoint(original, cfg, trainer, epoch_itr, val_loss):
    """Saves, if there is room for it. Collective.

    Raises:
        OSError: on all ranks: there is not, or a write failed; checkpoints are as they were.
    """
    if is_looked_at(cfg, trainer):
        need = needed(cfg, trainer, files_at_once(cfg, trainer, epoch_itr, val_loss))
        check_room(cfg, need, free_bytes(cfg, trainer), f"saving at update {trainer.get_num_updates()} takes")
    try:
        return original(cfg, trainer, epoch_itr, val_loss)
    except OSError as error:
        if not any(error.errno == number or os.strerror(number) in str(error) for number in FULL):
            raise
        raise OSError(f"the disk is full ({error}); complete checkpoints are as they were; {ADVICE}") from error


def is_looked_at(cfg, trainer):
    """Whether a training saves to a disk of this machine, and wants to know about its space."""
    local = not PathManager.path_requires_pathmanager(cfg.save_dir)
    return local and not cfg.no_save and run_setting(trainer.cfg, "disk_reserve") >= 0


def check_room(cfg, need, free, what):
    """Raises OSError when more is needed than is free; `need` and `free` are those of all ranks."""
    if need > free:
        raise OSError(
            f"--save-dir {cfg.save_dir}: {what} about {need / GB:.3g} GB, and {max(free, 0) / GB:.3g} GB can be used; "
            f"nothing was written, checkpoints are as they were; {ADVICE}, or give --disk-reserve -1 if the disk has "
            "more than it says"
        )


def free_bytes(cfg, trainer):
    """What the rank that sees the least may still write, without --disk-reserve; 0 without free inodes. Collective."""
    folder = Path(cfg.save_dir)
    while not folder.exists():
        folder = folder.parent  # the ranks may be here before the first one has made it
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    # file systems that make inodes as they go report none at all
    if disk.f_files > 0 and disk.f_favail == 0:
        free = 0
    return min(of_all_ranks(free)) - int(run_setting(trainer.cfg, "disk_reserve") * GB)


def needed(cfg, trainer, files):
    """Bytes that all ranks write for one save with so many files of the dense part at once. Collective."""
    dense, experts = bytes_of(trainer)
    group = group_of(trainer.get_model())
    last = Path(cfg.save_dir, f"checkpoint_last{trainer.checkpoint_suffix}.pt")
    if trainer.is_data_parallel_master and last.exists():
        dense = max(dense, last.stat().st_size)
    mine = (files * dense if trainer.is_data_parallel_master else 0) + (experts if group.replica == 0 else 0)
    return int(sum(of_all_ranks(mine)) * MARGIN)


def bytes_of(trainer):
    """(bytes of the dense part, of this rank's own experts) in a checkpoint, before there is one.

    The optimizer's state is counted as it is, or as two moments of each weight before the first update.
    """
    cfg, model = trainer.cfg, trainer.get_model()
    copies = 1 + (cfg.ema.store_ema * (2 if cfg.ema.ema_fp32 else 1))
    stepped = 0
    if not cfg.checkpoint.no_save_optimizer_state:
        stepped = moments(trainer) + bool(getattr(trainer.optimizer, "fp32_params", None))
    named = contents.expert_names(model)
    experts = sum(model.get_parameter(name).numel() for name in named)
    own = sum(model.get_parameter(name).numel() for name in named if model.get_parameter(name).requires_grad)
    weights = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for _, parameter in contents.trained_parameters(trainer))
    dense = copies * (weights - experts) + stepped * (trained - own)
    return int(ELEMENT * dense), int(ELEMENT * (copies * experts + stepped * own))


def moments(trainer):
    """Numbers that the optimizer keeps for each weight, on average."""
    optimizer = trainer.optimizer.optimizer
    state = getattr(optimizer, "state", {})
    kept = sum(x.numel() for values in state.values() for x in values.values() if hasattr(x, "numel"))
    stepped = sum(parameter.numel() for parameter in contents.parameters_of(optimizer))
    return kept / stepped if stepped and trainer.get_num_updates() > 0 else 2


def files_at_once(cfg, trainer, epoch_itr, val_loss):
    """Copies of the dense file that a save of fairseq adds at its fullest moment.

    A file that is replaced is there until the new one is complete.
    """
    end, updates, interval = epoch_itr.end_of_epoch(), trainer.get_num_updates(), cfg.save_interval_updates
    lasting = (end and not cfg.no_epoch_checkpoints and epoch_itr.epoch % cfg.save_interval == 0) or (
        not end and interval > 0 and updates % interval == 0
    )
    added = int(lasting) + int(val_loss is not None and cfg.keep_best_checkpoints > 0)
    names = ["checkpoint_best"] if val_loss is not None else []
    names += [] if cfg.no_last_checkpoints else ["checkpoint_last"]
    there = [Path(cfg.save_dir, f"{name}{trainer.checkpoint_suffix}.pt").exists() for name in names]
    return added + there.count(False) + any(there)
