"""A learning rate for each layer (--layer-lr-decay, --head-lr-scale), with the optimizers of fairseq 0.12.3.1.

fairseq's schedulers set one learning rate for all parameters. As for weight decay (weight_decay.py), groups for good
would renumber the optimizer's state and change checkpoints; so its groups are parted for the time of a step, each part
with the scheduler's learning rate times its layer's factor. A checkpoint is the same with and without.
"""

import logging
import re

from fairseq import trainer
from fairseq.optim import FairseqOptimizer

from fairseq_mhmoe.integration import checkpoint_contents as contents
from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.integration.weight_decay import check_single_parameters, parted

OPTION = "--layer-lr-decay"
SCALES = "mhmoe_lr_scales"  # attribute of a torch optimizer: {id of a parameter: factor} for those that have one
OPTIMIZERS = ("adam", "sgd")  # they read a group's learning rate in each step, and keep nothing of it
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
EMBEDDING = re.compile(r"embed|(?:^|\.)(?:cls|mask)_token$")
HEAD = re.compile(r"(?:^|\.)heads?\.")

logger = logging.getLogger(__name__)


def install():
    """Installs the hooks of this file."""
    wrap(trainer.Trainer, "__init__", start_trainer)
    wrap(trainer.Trainer, "_build_optimizer", build_optimizer)
    wrap(FairseqOptimizer, "step", step)


def settings_of(cfg):
    """(layer decay, factor of the heads) of a configuration; (1, 1) for tasks without such options."""
    return getattr(cfg.task, "layer_lr_decay", 1.0), getattr(cfg.task, "head_lr_scale", 1.0)


def start_trainer(original, self, cfg, task, model, *args, **kwargs):
    """Starts the trainer.

    Raises:
        ValueError: settings that leave the optimizer no single parameters, or an optimizer of another kind.
    """
    if settings_of(cfg) != (1.0, 1.0):
        check_settings(cfg)
        cfg.common.fp16_no_flatten_grads = True  # a flat copy of all parameters has one learning rate
    original(self, cfg, task, model, *args, **kwargs)


def check_settings(cfg):
    """Refuses what can't tell the parameters apart; ValueError names the option and the remedy."""
    decay, head = settings_of(cfg)
    option = f"{OPTION} {decay}" if decay != 1 else f"--head-lr-scale {head}"
    check_single_parameters(cfg, option)
    if cfg.optimizer._name not in OPTIMIZERS:
        raise ValueError(
            f"{option} works with --optimizer {' or '.join(OPTIMIZERS)}, not with {cfg.optimizer._name}; change one"
        )


def build_optimizer(original, self):
    """Builds the optimizer, and tells it the factor of each parameter."""
    original(self)
    decay, head = settings_of(self.cfg)
    if (decay, head) == (1.0, 1.0):
        return
    optimizer, order = self.optimizer.optimizer, contents.optimizer_order(self)
    if order is None:
        raise ValueError(f"{OPTION} {decay}: --optimizer {self.cfg.optimizer._name} keeps no single parameters")
    scales = layer_scales(order, decay, head)
    numbered = contents.parameters_of(optimizer)
    setattr(optimizer, SCALES, {id(p): scales[name] for p, name in zip(numbered, order, strict=True)})
    shown = ", ".join(f"{scale:.3g}" for scale in sorted(set(scales.values())))
    logger.info(f"learning rates of the layers, from the embeddings to the heads: --lr times {shown}")


def layer_scales(names, decay, head_scale):
    """{name: factor of the learning rate}: decay^(L + 1) for embeddings, decay^(L - i) in layer i of L, 1 above.

    Raises:
        ValueError: the model has no layers, or no head where one is to be scaled.
    """
    layers = [int(found[1]) for found in map(LAYER.search, names) if found]
    if decay != 1 and not layers:
        raise ValueError(f"{OPTION} {decay}: the model has no layers to tell apart; leave the option out")
    if head_scale != 1 and not any(map(is_head, names)):
        raise ValueError(f"--head-lr-scale {head_scale}: the model has no heads; leave the option out")
    count = max(layers, default=-1) + 1

    def scale(name):
        layer = LAYER.search(name)
        if layer:
            return decay ** (count - int(layer[1]))
        if is_head(name):
            return head_scale
        return decay ** (count + 1) if EMBEDDING.search(name) else 1.0

    return {name: scale(name) for name in names}


def is_head(name):
    """Whether a parameter belongs to a head, which lies above all layers."""
    return bool(HEAD.search(name)) and not LAYER.search(name)


def step(original, self, *args, **kwargs):
    """One update of all parameters."""
    if not hasattr(self.optimizer, SCALES):
        return original(self, *args, **kwargs)
    with parted(self.optimizer, getattr(self.optimizer, SCALES), parts_of, "lr"):
        return original(self, *args, **kwargs)


def parts_of(group, scales):
    """The group's parameters, one part for each factor in order, with the group's learning rate times it."""
    by_scale = {}
    for parameter in group["params"]:
        by_scale.setdefault(scales[id(parameter)], []).append(parameter)
    return [{**group, "params": by_scale[scale], "lr": group["lr"] * scale} for scale in sorted(by_scale)]
