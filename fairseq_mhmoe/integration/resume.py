"""A training that was stopped goes on as if it never had been, with the trainer of fairseq 0.12.3.1.

Stock code forgets: the float32 master weights of half precision (it continues from the rounded ones), the counters
after which the loss scale grows, how many updates ago the average of weights (EMA) was last updated, and how many
validations ago the loss was best (--patience). The position in the data counts batches of one process, so it means
another place when the number of processes R changes. And a training that was complete makes one more update whenever
its command is given again.
"""

import logging
import sys

from fairseq import checkpoint_utils
from fairseq.optim import FP16Optimizer, MemoryEfficientFP16Optimizer

from fairseq_mhmoe.integration.checkpoint_contents import parameters_of
from fairseq_mhmoe.integration.hooks import wrap

MASTER_WEIGHTS = "master_weights"
LOSS_SCALER = "loss_scaler"
EMA_COUNTER = "ema_update_freq_counter"
PATIENCE = "early_stop"
SCALER_COUNTERS = ("_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")

logger = logging.getLogger(__name__)


def install():
    """Installs the hooks of this file."""
    for optimizer in (FP16Optimizer, MemoryEfficientFP16Optimizer):
        wrap(optimizer, "state_dict", optimizer_state)
        wrap(optimizer, "load_state_dict", load_optimizer_state)
    wrap(checkpoint_utils, "load_checkpoint", load_checkpoint)


def optimizer_state(original, optimizer):
    """The state of an optimizer in half precision, with its master weights and the counters of its loss scale."""
    state = original(optimizer)
    masters = master_weights(optimizer)
    if masters:
        state[MASTER_WEIGHTS] = dict(enumerate(weights.data for weights in masters))
    if optimizer.scaler is not None:
        state[LOSS_SCALER] = {name: getattr(optimizer.scaler, name) for name in SCALER_COUNTERS}
    return state


def load_optimizer_state(original, optimizer, state, optimizer_overrides=None):
    """Loads it; a state without these entries, from stock code, is as good as there."""
    original(optimizer, state, optimizer_overrides)
    saved = state.get(MASTER_WEIGHTS, {})
    for number, weights in enumerate(master_weights(optimizer)):
        if number in saved:
            weights.data.copy_(saved[number])
    if optimizer.scaler is not None:
        for name, value in state.get(LOSS_SCALER, {}).items():
            setattr(optimizer.scaler, name, value)


def master_weights(optimizer):
    """The float32 weights that an optimizer steps on, by their number in its state; empty if it has none of its own.

    With ZeRO each process steps on a part only: none, as in stock code.
    """
    stepped = optimizer.optimizer
    if not isinstance(optimizer, FP16Optimizer) or hasattr(stepped, "consolidate_state_dict"):
        return []
    return parameters_of(stepped)


def fit_to(state, trainer):
    """Fits a loaded state, in place, to the number of processes and the settings of this training."""
    fit_position(state, trainer.data_parallel_world_size)
    extra_state = state["extra_state"]
    if trainer.cfg.ema.store_ema and "ema" not in extra_state:
        # stock code means this too, but has let go of the weights when it comes to it
        logger.warning("the checkpoint has no average of weights (EMA): it starts from the checkpoint's weights")
        extra_state["ema"] = dict(state["model"])
    if not trainer.cfg.ema.store_ema and "ema" in extra_state:
        logger.warning("the average of weights (EMA) in the checkpoint is left out: give --store-ema to continue it")


def check_task(state, task, starts_anew=False):
    """Lets a task that can tell whether a training may go on with it look at what the checkpoint says of it.

    Of one whose weights a new training starts with, it looks at what concerns the weights.

    Stock code saves the state of a task and shows it to programs that evaluate, but not to a training.

    Raises:
        ValueError: from the task.
    """
    check = getattr(task, "check_pretrained" if starts_anew else "check_state", None)
    if check is not None:
        check(state.get("task_state") or {})


def fit_position(state, processes):
    """Converts the position within an epoch from batches per process then to batches per process now.

    R ranks take the batches in turn, so that b batches on each of R ranks are b * R of the epoch.
    """
    iterator = state["extra_state"].get("train_iterator") or {}
    batches = iterator.get("iterations_in_epoch", 0)
    before = processes_of(state)
    if not batches or before == processes:
        return
    iterator["iterations_in_epoch"], rest = divmod(batches * before, processes)
    if rest:
        logger.warning(
            f"{batches * before} batches of this epoch were used by {before} processes, which {processes} processes "
            f"can't share: the last {rest} of them are used again"
        )


def processes_of(state):
    """Number of processes that wrote a state; 1 where it does not say."""
    cfg = state.get("cfg")
    distributed = cfg.get("distributed_training") if cfg is not None else None
    return (distributed or {}).get("distributed_world_size") or 1


def save_counters(trainer, extra_state):
    """Adds the counters that stock code leaves out to the state to be saved, in place."""
    if trainer.cfg.ema.store_ema:
        extra_state[EMA_COUNTER] = trainer.ema.update_freq_counter
    counted = vars(early_stop()) if early_stop() else {}
    if "num_runs" in counted:
        extra_state[PATIENCE] = {"best": counted["best"], "num_runs": counted["num_runs"]}


def early_stop():
    """The function of fairseq's training program that keeps count of validations; None in other programs."""
    modules = (sys.modules.get(name) for name in ("fairseq_cli.train", "__main__"))
    return next((module.should_stop_early for module in modules if hasattr(module, "should_stop_early")), None)


def restore_average(trainer, extra_state):
    """Restores the counter of the average from the state that was loaded; None when nothing was."""
    if trainer.cfg.ema.store_ema and extra_state is not None:
        trainer.ema.update_freq_counter = extra_state.get(EMA_COUNTER, 0)


def load_checkpoint(original, cfg, trainer, **kwargs):
    """Loads a training; one that has made its --max-update updates ends there."""
    extra_state, epoch_itr = original(cfg, trainer, **kwargs)
    continued = extra_state is not None and trainer.get_num_updates() > 0  # not: fine-tuning, a reset optimizer
    if continued and early_stop() and not cfg.reset_meters:
        vars(early_stop()).update(extra_state.get(PATIENCE, {}))
    optimization = trainer.cfg.optimization
    if 0 < optimization.max_update <= trainer.get_num_updates():
        logger.info(f"nothing to train: {trainer.get_num_updates()} of {optimization.max_update} updates are made")
        optimization.max_epoch = -1  # the trainer looks at it next, and goes on while epochs are left
    return extra_state, epoch_itr
