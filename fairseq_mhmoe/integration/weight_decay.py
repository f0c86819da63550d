"""Norms, biases and routers without weight decay (--no-weight-decay-on), with the optimizers of fairseq 0.12.3.1.

fairseq gives every parameter the same weight decay. Groups of parameters would renumber the optimizer's state, by which
checkpoints know the experts, and a checkpoint could only be continued with the same option. So the optimizer's groups
are parted for the time of a step only: a checkpoint is the same with and without.
"""

import logging
from contextlib import contextmanager

from fairseq import trainer
from fairseq.optim import FairseqOptimizer

from fairseq_mhmoe.integration import checkpoint_contents as contents
from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.moe.parameter_kinds import parameters_of_kind, parse_kinds

OPTION = "--no-weight-decay-on"
SPARED = "mhmoe_spared"  # attribute of a torch optimizer: its parameters without weight decay

logger = logging.getLogger(__name__)


def install():
    """Installs the hooks of this file."""
    wrap(trainer.Trainer, "__init__", start_trainer)
    wrap(trainer.Trainer, "_build_optimizer", build_optimizer)
    wrap(FairseqOptimizer, "step", step)


def start_trainer(original, self, cfg, task, model, *args, **kwargs):
    """Starts the trainer.

    Raises:
        ValueError: settings that leave the optimizer no single parameters.
    """
    if kinds_of(cfg):
        check_settings(cfg)
        cfg.common.fp16_no_flatten_grads = True  # a flat copy of all parameters has one weight decay
    original(self, cfg, task, model, *args, **kwargs)


def kinds_of(cfg):
    """The kinds that a configuration names; models of fairseq have no such option."""
    return parse_kinds(getattr(cfg.model, "no_weight_decay_on", ""))


def check_settings(cfg):
    """Refuses what can't tell the parameters apart; ValueError names the option and the remedy."""
    check_single_parameters(cfg, f"{OPTION} {cfg.model.no_weight_decay_on}")


def check_single_parameters(cfg, option):
    """ValueError where the optimizer of this configuration sees no single parameters; `option` as it was given."""
    distributed = cfg.distributed_training
    refused = (
        (distributed.zero_sharding != "none", f"--zero-sharding {distributed.zero_sharding}"),
        (distributed.ddp_backend == "fully_sharded", "--ddp-backend fully_sharded"),
        (cfg.optimization.use_bmuf, "--use-bmuf"),
    )
    for wrong, other in refused:
        if wrong:
            raise ValueError(f"{option} can't be used with {other}; leave out one of them")


def build_optimizer(original, self):
    """Builds the optimizer, and tells it which parameters it is to spare.

    Raises:
        ValueError: an optimizer without weight decay of its own.
    """
    original(self)
    kinds = kinds_of(self.cfg)
    if not kinds:
        return
    optimizer, order = self.optimizer.optimizer, contents.optimizer_order(self)
    if order is None or not all("weight_decay" in group for group in optimizer.param_groups):
        raise ValueError(
            f"{OPTION} {self.cfg.model.no_weight_decay_on}: --optimizer {self.cfg.optimizer._name} has no weight decay "
            "for single parameters; use adam or sgd, or leave the option out"
        )
    names = names_of_kinds(self, kinds)
    numbered = contents.parameters_of(optimizer)
    setattr(optimizer, SPARED, {id(p) for p, name in zip(numbered, order, strict=True) if name in names})
    if not any(group["weight_decay"] for group in optimizer.param_groups):
        logger.warning("%s has no effect: --weight-decay is 0", OPTION)


def names_of_kinds(self, kinds):
    """Names of the trained parameters of these kinds; warns of a kind that the model has none of."""
    names = set()
    for kind in sorted(kinds):
        wanted = parameters_of_kind(self.get_model(), kind)
        found = {name for name, parameter in contents.trained_parameters(self) if parameter in wanted}
        if not found:
            logger.warning("%s %s has no effect: the model trains no parameters of that kind", OPTION, kind)
        names |= found
    return names


def step(original, self, *args, **kwargs):
    """One update of all parameters."""
    if not hasattr(self.optimizer, SPARED):
        return original(self, *args, **kwargs)
    with parted(self.optimizer, getattr(self.optimizer, SPARED), parts_of, "weight_decay"):
        return original(self, *args, **kwargs)


@contextmanager
def parted(optimizer, chosen, parts_of, setting):
    """Inside, each of the optimizer's groups is several, parts_of(group, chosen), which differ in this setting."""
    groups = optimizer.param_groups
    parts = [(group, part) for group in groups for part in parts_of(group, chosen)]
    optimizer.param_groups = [part for _, part in parts]
    try:
        yield
    finally:
        optimizer.param_groups = groups
        for group, part in parts:  # what a step notes in its groups: Nesterov's last learning rate
            group.update({key: value for key, value in part.items() if key not in ("params", setting)})


def parts_of(group, spared):
    """The group in two: the parameters with the group's weight decay, and the spared ones without; no empty part."""
    decayed = [parameter for parameter in group["params"] if id(parameter) not in spared]
    rest = [parameter for parameter in group["params"] if id(parameter) in spared]
    parts = ({**group, "params": decayed}, {**group, "params": rest, "weight_decay": 0.0})
    return [part for part in parts if part["params"]]
