"""What a trainer of fairseq 0.12.3.1 has to save: which of its parameters are experts of this rank, and under which
number the optimizer keeps their moments.

An expert tensor has the shape [N / P, ...] on each of the P ranks of an expert-parallel group.
"""

from argparse import Namespace
from enum import Enum

from fairseq import utils
from fairseq.optim import FP16Optimizer

from fairseq_mhmoe.checkpoint.layout import take_experts
from fairseq_mhmoe.moe.parallel import is_expert


def expert_names(model):
    """Names of the parameters that hold other experts on other ranks; empty when P = 1."""
    return [name for name, parameter in model.named_parameters() if is_expert(parameter)]


def trained_parameters(trainer):
    """[(name, parameter)] in the order in which the trainer hands them to an optimizer without parameter groups."""
    model, criterion = trainer.get_model(), trainer.get_criterion()
    named = [*model.named_parameters(), *((f"criterion.{name}", p) for name, p in criterion.named_parameters())]
    return [(name, parameter) for name, parameter in named if parameter.requires_grad]


def optimizer_order(trainer):
    """Names of the trained parameters by their number in the optimizer's state.

    None where parameters have no number of their own: flattened float16, a composite optimizer.
    """
    names = {id(parameter): name for name, parameter in trained_parameters(trainer)}
    optimizer = trainer.optimizer
    if isinstance(optimizer, FP16Optimizer):
        if optimizer.has_flat_params:
            return None
        # the optimizer steps on float32 copies
        names = {id(copy): names[id(own)] for own, copy in zip(optimizer.fp16_params, optimizer.fp32_params)}
    numbered = parameters_of(optimizer.optimizer)
    if len(numbered) != len(names):
        return None
    return [names[id(parameter)] for parameter in numbered]


def parameters_of(optimizer):
    """The parameters of a torch optimizer by their number; none for a composite one, which has no such order."""
    return [parameter for group in getattr(optimizer, "param_groups", ()) for parameter in group["params"]]


def numbers_of(names, order):
    """The optimizer's numbers of these parameters; those that are not trained have none."""
    wanted = set(names)
    return [number for number, name in enumerate(order) if name in wanted]


def without_experts(trainer, state):
    """(state without this rank's experts, these experts by section): see checkpoint.layout."""
    names = expert_names(trainer.get_model())
    return take_experts(state, names, numbers_of(names, optimizer_order(trainer)))


def experts_of(trainer):
    """This rank's experts with their moments, master weights and averages, on the CPU, as a shard holds them."""
    state = {"model": trainer.model.state_dict(), "extra_state": {}}
    if trainer.cfg.ema.store_ema:
        state["extra_state"]["ema"] = trainer.ema.get_model().state_dict()
        if trainer.cfg.ema.ema_fp32:
            state["extra_state"]["ema_fp32_params"] = trainer.ema.fp32_params
    if not trainer.cfg.checkpoint.no_save_optimizer_state:
        state["last_optimizer_state"] = trainer.optimizer.state_dict()
    _, experts = without_experts(trainer, state)
    return utils.move_to_cpu(experts)  # as the trainer does with the rest: half precision becomes float32


def plain(value):
    """The value with dictionaries for namespaces and names for enumerations: readable without any of our classes."""
    if isinstance(value, Namespace):
        return plain(vars(value))
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return value
