"""Which parameters of a model are norms, biases or routers, whatever the model."""

from typing import Set

from torch import nn

from .router_base import Router

KINDS = ("norm", "bias", "router")


def parse_kinds(text: str) -> Set[str]:
    """The kinds of a comma-separated list; none of an empty one. Raises ValueError for a word that is no kind."""
    kinds = {word.strip() for word in text.split(",")} - {""}
    unknown = sorted(kinds - set(KINDS))
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no kind of parameters; expected a comma-separated list of {list(KINDS)}")
    return kinds


def parameters_of_kind(model: nn.Module, kind: str) -> Set[nn.Parameter]:
    """The parameters of one kind; a norm's bias is of two.

    Args:
        model: any; a norm is a module whose class is named so, and norm_weight, norm_bias of stacked experts.
        kind: one of KINDS.
    """
    found: Set[nn.Parameter] = set()
    for module in model.modules():
        if kind == "router":
            found.update(module.parameters() if isinstance(module, Router) else ())
            continue
        is_norm = type(module).__name__.endswith("Norm")
        for name, parameter in module.named_parameters(recurse=False):
            is_bias = name.endswith("bias") or name in ("b_in", "b_out")
            if is_bias if kind == "bias" else is_norm or name.startswith("norm_"):
                found.add(parameter)
    return found
