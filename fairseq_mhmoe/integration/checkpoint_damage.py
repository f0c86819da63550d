"""Files that were cut, changed or lost are noticed before a training or a program of fairseq 0.12.3.1 uses them.

Stock code loads what it can read. Here all ranks verify the files together, a share each, before anything is loaded.
When checkpoint_last.pt is not complete, the newest one of its folder that is takes its place; the damaged file is kept
as *.damaged. A checkpoint that was asked for by name (--restore-file) is never replaced by another.
"""

import logging
import os
from pathlib import Path

from fairseq import checkpoint_utils, trainer
from fairseq.file_io import PathManager

from fairseq_mhmoe.checkpoint.errors import DamagedCheckpoint
from fairseq_mhmoe.checkpoint.folder import checkpoints_newest_first
from fairseq_mhmoe.checkpoint.reading import verify
from fairseq_mhmoe.checkpoint.writing import copy_atomically
from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.integration.together import of_all_ranks, place, stop_together
from fairseq_mhmoe.moe.parallel import group_of

DEFAULT = "checkpoint_last.pt"

logger = logging.getLogger(__name__)


def install():
    """Installs the hooks of this file; those that load go around those of checkpoint_loading."""
    wrap(checkpoint_utils, "load_checkpoint", load_checkpoint)
    wrap(checkpoint_utils, "load_model_ensemble_and_task", load_verified_models)
    wrap(trainer.Trainer, "load_checkpoint", load_verified)


def load_checkpoint(original, cfg, trainer, **kwargs):
    """Starts a training from its last complete checkpoint. Collective.

    Raises:
        DamagedCheckpoint: there are checkpoints, but none is complete; nothing was changed.
        ValueError: settings under which experts of several processes can't be saved; --restore-file names no file.
    """
    check_settings(trainer)
    check_restore_file(cfg, trainer)
    last = last_checkpoint(cfg, trainer)
    if cfg.restore_file == DEFAULT and not PathManager.path_requires_pathmanager(last):
        if any(of_all_ranks(os.path.isfile(last))):
            replace_if_damaged(last)
        elif trainer.is_data_parallel_master:
            warn_of_others(cfg.save_dir)
    return original(cfg, trainer, **kwargs)


def load_verified(original, trainer, filename, *args, **kwargs):
    """Loads a file that is complete. Collective.

    Raises:
        DamagedCheckpoint: it is not.
    """
    cfg = trainer.cfg.checkpoint
    verified = cfg.restore_file == DEFAULT and filename == last_checkpoint(cfg, trainer)
    if not verified:
        refuse_damaged(filename)
    return original(trainer, filename, *args, **kwargs)


def load_verified_models(original, filenames, *args, **kwargs):
    """Loads models from files that are complete. Collective.

    Raises:
        DamagedCheckpoint: one is not.
    """
    for filename in filenames:
        refuse_damaged(filename)
    return original(filenames, *args, **kwargs)


def refuse_damaged(filename):
    """Raises DamagedCheckpoint, on all ranks, for a local file that is there but not complete; collective."""
    remote = PathManager.path_requires_pathmanager(filename)
    if not remote and any(of_all_ranks(os.path.isfile(filename))):
        damage = damage_of(filename)
        if damage is not None:
            raise damage


def last_checkpoint(cfg, trainer):
    """Path of the file that a training continues from by default."""
    return os.path.join(cfg.save_dir, f"checkpoint_last{trainer.checkpoint_suffix}.pt")


def check_restore_file(cfg, trainer):
    """Refuses a file that is not there, instead of which stock code would train from the beginning. Collective.

    Raises:
        ValueError: naming the file.
    """
    named = cfg.restore_file.replace(".pt", f"{trainer.checkpoint_suffix}.pt")
    if cfg.restore_file == DEFAULT or PathManager.path_requires_pathmanager(named):
        return
    if not any(of_all_ranks(os.path.isfile(named))):
        raise ValueError(f"--restore-file {named}: there is no such file; leave it out to start from the beginning")


def check_settings(trainer):
    """Refuses what experts over several processes could not be saved with.

    Raises:
        ValueError: naming the option.
    """
    cfg = trainer.cfg
    if group_of(trainer.get_model()).size == 1:
        return
    if cfg.checkpoint.write_checkpoints_asynchronously:
        raise ValueError(
            "--write-checkpoints-asynchronously can't be combined with experts over several processes: leave it out, "
            "their checkpoint is complete when its last file is"
        )
    if getattr(cfg.optimizer, "_name", None) == "composite":
        raise ValueError(
            "--optimizer composite can't be combined with experts over several processes, because it does not number "
            "its parameters: take adam or sgd, or --moe-expert-parallel-size 1"
        )


def damage_of(path):
    """The DamagedCheckpoint that the ranks find together, None for a complete one; collective.

    Raises:
        ValueError, OSError: on all ranks: a file holds code, or can't be opened.
    """
    (part, parts), found = place(), None
    try:
        verify(path, part, parts)
    except (ValueError, OSError) as error:
        found = error
    errors = [error for error in of_all_ranks(found) if error is not None]
    others = [error for error in errors if not isinstance(error, DamagedCheckpoint)]
    if others:
        raise others[0]
    return errors[0] if errors else None


def replace_if_damaged(last):
    """Puts the newest complete checkpoint of the folder in the place of a damaged one; collective.

    Raises:
        DamagedCheckpoint: there is none.
    """
    damage = damage_of(last)
    if damage is None:
        return
    candidates = of_all_ranks(checkpoints_newest_first(Path(last).parent) if place()[0] == 0 else None)[0]
    damaged = [Path(last)]
    for candidate in candidates:
        if candidate == Path(last):
            continue
        if damage_of(candidate) is None:
            break
        damaged.append(candidate)
    else:
        nothing = f"{Path(last).parent} has no complete checkpoint; nothing was trained or changed"
        raise DamagedCheckpoint(damage.file, f"{damage.reason}, and {nothing}")
    logger.warning(f"{last} is not complete: {damage.file} {damage.reason}; continuing from {candidate} instead")
    failure = None
    if place()[0] == 0:
        try:
            for path in damaged:
                keep_aside(path)
            copy_atomically(candidate, last)
            for path in damaged[1:]:
                path.unlink()
        except OSError as error:
            failure = error
    stop_together(failure)


def keep_aside(path):
    """Gives a damaged file a second name, *.damaged, that no other file has."""
    aside, number = Path(f"{path}.damaged"), 1
    while aside.exists():
        aside, number = Path(f"{path}.{number}.damaged"), number + 1
    copy_atomically(path, aside)
    logger.warning(f"the damaged file was kept as {aside}")


def warn_of_others(save_dir):
    """Says so when a training starts from the beginning beside checkpoints that it could continue from."""
    others = checkpoints_newest_first(save_dir)
    if others:
        logger.warning(
            f"{save_dir} has no {DEFAULT}: training starts from the beginning; to continue from {others[0].name} give "
            f"--restore-file {others[0]}"
        )
