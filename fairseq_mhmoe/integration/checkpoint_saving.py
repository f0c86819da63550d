"""Saving with experts over several processes, by the trainer of fairseq 0.12.3.1.

Stock code writes what rank 0 holds: the other ranks' experts would be lost without a word. Here every rank of the first
copy of the experts writes its own beside the checkpoint, in parallel; then stock code, which alone decides when and
under which names to save, writes everything else, with a reference to these files: the rename of that file commits.
Files are written through to the disk before they get their name, copies (checkpoint_last.pt, checkpoint_best.pt) too,
and an error on any rank ends all of them with its message.
"""

import shutil
from pathlib import Path

from fairseq import checkpoint_utils, trainer
from fairseq.file_io import PathManager

from fairseq_mhmoe.checkpoint import stages
from fairseq_mhmoe.checkpoint.converting import PARAMETERS
from fairseq_mhmoe.checkpoint.folder import new_expert_folder, remove_unnamed_experts
from fairseq_mhmoe.checkpoint.writing import (
    FOLDER,
    LEFT_OUT,
    REFERENCE,
    copy_atomically,
    write_dense,
    write_manifest,
    write_shard,
)
from fairseq_mhmoe.integration import checkpoint_contents as contents
from fairseq_mhmoe.integration import resume
from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.integration.together import of_all_ranks, stop_together
from fairseq_mhmoe.moe.parallel import group_of


def install():
    """Installs the hooks of this file."""
    wrap(checkpoint_utils, "save_checkpoint", save_checkpoint)
    wrap(checkpoint_utils, "torch_persistent_save", persistent_save)
    wrap(PathManager, "copy", copy)
    wrap(trainer.Trainer, "state_dict", state_dict)


def save_checkpoint(original, cfg, trainer, epoch_itr, val_loss):
    """Saves what stock code would, complete and on all ranks or on none. Collective.

    Raises:
        OSError: on every rank, when one of them could not write; no checkpoint was changed.
    """
    if cfg.no_save:
        return original(cfg, trainer, epoch_itr, val_loss)
    stages.reached("save")
    folder, entries = write_experts(cfg, trainer)
    saved, failure = None, None
    try:
        if entries and trainer.is_data_parallel_master:
            trainer.mhmoe_reference = describe_experts(folder, entries, trainer.get_num_updates())
        saved = original(cfg, trainer, epoch_itr, val_loss)
    except Exception as error:
        failure = error
    trainer.mhmoe_reference = None
    if trainer.is_data_parallel_master:
        stages.reached("clean")
        collecting = collect(cfg.save_dir)
        failure = failure or collecting
    # the other ranks would only learn of it by waiting for this one in the next update
    stop_together(failure)
    stages.reached("saved")
    return saved


def collect(save_dir):
    """Removes the experts that no checkpoint names: of deleted checkpoints, of runs that were killed, of a failed save.

    Returns: the error, if one came up.
    """
    try:
        if Path(save_dir, FOLDER).is_dir():
            remove_unnamed_experts(save_dir)
    except OSError as error:
        return error
    return None


def write_experts(cfg, trainer):
    """Writes the experts of all ranks into a new folder -> (folder, entries of the shards); nothing when P = 1.

    Collective, so no rank may leave it early: what goes wrong on one is collected first.

    Raises:
        OSError: on every rank: rank, file and reason; the folder is gone.
    """
    group = group_of(trainer.get_model())
    if group.size == 1:
        return None, []
    folder = Path(cfg.save_dir, of_all_ranks(new_expert_folder(trainer.get_num_updates()))[0])
    entry, problem = None, None
    if group.replica == 0:
        try:
            entry = write_shard(folder, group.rank, group.size, contents.experts_of(trainer))
        except (OSError, RuntimeError) as error:  # RuntimeError: torch's writer, or a device without memory
            problem = f"rank {group.world_rank}: {error}"
    entries, problems = zip(*of_all_ranks((entry, problem)))
    problems = [problem for problem in problems if problem]
    if problems:
        if group.world_rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        raise OSError(f"no checkpoint was written, and none was changed: {'; '.join(problems)}")
    return folder, [entry for entry in entries if entry]


def describe_experts(folder, entries, updates):
    """Writes the manifest of the shards -> the reference for the checkpoint.

    Raises:
        OSError: it can't be written, or the other ranks wrote to disks of their own.
    """
    check_that_files_are_shared(folder, entries)
    return write_manifest(folder, entries, {"num_updates": updates})


def check_that_files_are_shared(folder, entries):
    """Raises OSError if the other ranks wrote to disks of their own."""
    for entry in entries:
        if not (folder / entry["file"]).exists():
            raise OSError(
                f"rank 0 does not see {folder / entry['file']}, which another rank wrote: --save-dir must be on "
                "storage that all processes share"
            )


def state_dict(original, trainer):
    """The trainer's state as plain data; no collective, and without this rank's experts when P > 1."""
    state = original(trainer)
    state["cfg"] = contents.plain(state["cfg"])
    resume.save_counters(trainer, state["extra_state"])
    order = contents.optimizer_order(trainer)
    if order is not None:
        state[PARAMETERS] = order
    if group_of(trainer.get_model()).size == 1:
        return state
    state, _ = contents.without_experts(trainer, state)
    reference = getattr(trainer, "mhmoe_reference", None)
    if reference is None:
        state[LEFT_OUT] = True
    else:
        state[REFERENCE] = reference
    return state


def persistent_save(original, obj, filename, async_write=False):
    """Saves one object; a local file is complete on the disk before it has its name.

    Raises:
        OSError: with file and reason.
    """
    if async_write or not isinstance(filename, str) or PathManager.path_requires_pathmanager(filename):
        return original(obj, filename, async_write)
    return write_dense(obj, filename)


def copy(original, src_path, dst_path, overwrite=False):
    """Copies a file; a local one appears under its new name only when complete."""
    if any(PathManager.path_requires_pathmanager(path) for path in (src_path, dst_path)):
        return original(src_path, dst_path, overwrite)
    stages.reached("copies")
    copy_atomically(src_path, dst_path)
    return dst_path
