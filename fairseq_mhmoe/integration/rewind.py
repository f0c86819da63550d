"""Undoes a loss spike: weights, moments and schedule of the last good checkpoint, and on with the data after the spike.

The data that were read since that checkpoint are left out by not moving their iterator: nothing in the loop of
fairseq 0.12.3.1 is entered again, so data workers, process groups and writers stay as they are. A checkpoint with the
old weights and the new position is written at once. Until it is there a training that is killed lives through the same
spike again, and goes back to the same checkpoint.
"""

import ast
import json
import logging
import os
from pathlib import Path

from fairseq import checkpoint_utils
from fairseq.logging import metrics

from fairseq_mhmoe.checkpoint.folder import checkpoints_newest_first, num_updates_of
from fairseq_mhmoe.checkpoint.loading import load
from fairseq_mhmoe.checkpoint.writing import sync_folder, write_text
from fairseq_mhmoe.integration.checkpoint_damage import damage_of
from fairseq_mhmoe.integration.run_settings import run_setting
from fairseq_mhmoe.integration.together import of_all_ranks, place, stop_together

LOG = "rewinds.json"
WINDOWS = 10  # of --loss-spike-window updates, in which --max-rewinds are allowed
KEPT = ("checkpoint_last", "checkpoint_best", "checkpoint.best")  # names that a rewind does not touch

logger = logging.getLogger(__name__)


def check_settings(cfg):
    """Refuses what leaves nothing to go back to; ValueError names the option."""
    for wrong, option in (
        (cfg.checkpoint.no_save, "--no-save"),
        (cfg.checkpoint.no_save_optimizer_state, "--no-save-optimizer-state"),
        (cfg.checkpoint.no_last_checkpoints, "--no-last-checkpoints"),
        (cfg.checkpoint.write_checkpoints_asynchronously, "--write-checkpoints-asynchronously"),
        (cfg.distributed_training.ddp_backend == "fully_sharded", "--ddp-backend fully_sharded"),
    ):
        if wrong:
            raise ValueError(
                f"--on-loss-spike rewind goes back to complete checkpoints, which {option} does not write: leave it "
                "out, or take --on-loss-spike log"
            )
    if cfg.optimization.use_bmuf:
        raise ValueError(
            "--on-loss-spike rewind needs a loss that all ranks share, and with --use-bmuf each has its own: leave it "
            "out, or take --on-loss-spike log"
        )


def go_back(trainer):
    """Goes back to the newest checkpoint from before the spike at hand -> whether there is one. Collective.

    Raises:
        FloatingPointError: on all ranks: there were --max-rewinds of late.
        OSError: on all ranks: the checkpoint with the new position could not be written.
    """
    spikes, updates = trainer.mhmoe_spikes, trainer.get_num_updates()
    found = newest_before(trainer.cfg.checkpoint.save_dir, spikes.began)
    check_not_too_often(trainer, found)
    if found is None:
        spikes.say(
            logging.WARNING,
            f"no complete checkpoint from before update {spikes.began - 1} is in {trainer.cfg.checkpoint.save_dir}, so "
            "there is nothing to go back to: training goes on; save more often (--save-interval-updates)",
        )
        return False
    path, to = found
    undone = {
        "spike_began": spikes.began,
        "from_update": updates,
        "to_update": to,
        "checkpoint": path.name,
        "losses": [round(loss, 3) for loss in spikes.range.high],
        "usual_loss": spikes.range.middle(),
        "data_left_out": f"{updates - to} updates",
        "goes_on_at": position_of(trainer),
    }
    rewinds = [*spikes.rewinds, undone]
    restore(trainer, path)
    trainer.mhmoe_spikes.rewinds, trainer.mhmoe_spikes.total = rewinds, spikes.total
    stop_together(put_aside_and_note(trainer.cfg.checkpoint.save_dir, to, rewinds) if place()[0] == 0 else None)
    checkpoint_utils.save_checkpoint(trainer.cfg.checkpoint, trainer, trainer.mhmoe_epoch_itr, None)
    spikes.say(
        logging.WARNING,
        f"went back from update {updates} to {path.name} (update {to}); the data of these {updates - to} updates are "
        f"left out, training goes on with those after them ({LOG})",
    )
    return True


def check_not_too_often(trainer, found):
    """Raises FloatingPointError when --max-rewinds were made of late."""
    spikes = trainer.mhmoe_spikes
    stretch = WINDOWS * spikes.range.window
    late = [undone for undone in spikes.rewinds if undone["spike_began"] > spikes.began - stretch]
    most = run_setting(trainer.cfg, "max_rewinds")
    if found is not None and len(late) >= most:
        raise FloatingPointError(
            f"the loss spike of update {spikes.began} lasts, after {len(late)} rewinds within {stretch} updates "
            f"(--max-rewinds {most}): going back does not help; lower --lr or --clip-norm, look at the data ({LOG} "
            f"in --save-dir tells the updates), then go on with --restore-file {found[0]}"
        )


def newest_before(save_dir, began):
    """(path, updates) of the newest complete checkpoint whose weights have since had a usual loss; None. Collective."""
    listed = None
    if place()[0] == 0:
        listed = [(path, num_updates_of(load(path, mmap=True))) for path in checkpoints_newest_first(save_dir)]
    for path, updates in of_all_ranks(listed)[0]:
        # the loss of update u is that of the weights after u - 1 updates
        if 0 < updates < began - 1 and damage_of(path) is None:
            return path, updates
    return None


def position_of(trainer):
    """Where the data are, for people; batches are those of all ranks."""
    iterator = trainer.mhmoe_epoch_itr
    batches = iterator.iterations_in_epoch * trainer.data_parallel_world_size
    return {"epoch": iterator.epoch, "batches_of_the_epoch_read": batches}


def restore(trainer, path):
    """Loads the state of a checkpoint into a trainer in the middle of an epoch, whose clock and data go on."""
    clock = trainer._previous_training_time, trainer._start_time
    left_out = trainer.mhmoe_nonfinite
    # the new optimizer is built beside this one, on a device that may be full
    trainer.zero_grad()
    getattr(trainer.optimizer.optimizer, "state", {}).clear()
    overrides = ast.literal_eval(trainer.cfg.checkpoint.optimizer_overrides)
    trainer.load_checkpoint(str(path), optimizer_overrides=overrides, reset_meters=True)
    trainer._previous_training_time, trainer._start_time = clock
    trainer.mhmoe_nonfinite.total = left_out.total
    trainer.lr_step_begin_epoch(trainer.mhmoe_epoch_itr.epoch)
    for name in ("train", "train_inner"):
        metrics.reset_meters(name)  # averages would hold what has been undone
    report = getattr(trainer.get_criterion(), "routing_report", None)
    if report is not None:
        report.start_again()


def put_aside_and_note(save_dir, updates, rewinds):
    """Gives checkpoints from after so many updates another name, and writes the log of rewinds -> an error or None.

    They would be kept by --keep-interval-updates instead of good ones, and taken by the next rewind.
    """
    try:
        for path in checkpoints_newest_first(save_dir):
            if not path.name.startswith(KEPT) and num_updates_of(load(path, mmap=True)) > updates:
                os.replace(path, path.with_name(f"{path.name}.undone"))
                logger.warning(f"{path.name} was saved in the spike: it is now {path.name}.undone")
        sync_folder(save_dir)
        write_text(Path(save_dir, LOG), json.dumps(rewinds, indent=1) + "\n")
    except (ValueError, OSError) as error:
        return error
    return None
