"""Expert widths and counts at which two feed-forward sub-layers cost the same (D width, H heads, N experts, K choices,
F inner width): equal parameters as in MH-MoE v1, or equal FLOPs and then equal parameters as in v2, section 3."""

from dataclasses import dataclass, replace
from typing import Callable, Optional

from .config import MoEConfig
from .cost import LanguageModelShape, feed_forward_macs, feed_forward_params, moe_layer_cost, training_flops

MULTIPLE = 8  # widths and counts of the papers' models are multiples of it; matrix kernels like them, too


@dataclass(frozen=True)
class Figures:
    """What is made equal: parameters of one sub-layer and its training FLOPs per token."""

    params: int
    flops: int


Account = Callable[[MoEConfig], Figures]


@dataclass(frozen=True)
class Solution:
    """A width or a count, and how far the nearest usable one misses."""

    exact: float
    nearest: int  # multiple of MULTIPLE
    deviation: float  # of the parameters or FLOPs at `nearest`, relative to the target: 0.01 is 1 % more


@dataclass(frozen=True)
class Match:
    """The expert width and, for v2, the number of experts at which a layer costs as much as another."""

    width: Solution
    count: Optional[Solution] = None


def matrices(config: MoEConfig) -> Figures:
    """What the papers' equations count: the matrices of experts, shared expert, head and merge layers."""
    c = config
    linears = (c.num_head_layers + c.num_merge_layers) * c.d_model**2
    expert = feed_forward_macs(c.d_sub, c.ffn_dim, c.activation)  # a matrix has as many weights as multiply-adds a row
    shared = feed_forward_macs(c.d_model, c.shared_expert_dim, c.activation)
    macs = linears + c.heads * c.top_k * expert + shared
    return Figures(linears + c.num_experts * expert + shared, training_flops(macs))


def everything(config: MoEConfig) -> Figures:
    """All that a layer has and does: also router, biases and inner norms."""
    cost = moe_layer_cost(config)
    return Figures(cost.params_total, cost.flops_per_token)


def layer_figures(shape: LanguageModelShape, account: Account) -> Figures:
    """Figures of a model's MoE layer, or of a dense model's feed-forward network in its place."""
    if shape.moe is not None:
        return account(shape.moe)
    s, whole = shape, account is everything
    params = feed_forward_params(s.d_model, s.ffn_dim, s.activation, s.bias and whole, s.subln and whole, s.rms_norm)
    return Figures(params, training_flops(feed_forward_macs(s.d_model, s.ffn_dim, s.activation)))


def width_for_flops(config: MoEConfig, flops: int, account: Account = everything) -> float:
    """F at which the layer has these FLOPs per token; `matrices` gives v2's K F = K_s F_s - 2 D / 3 for SwiGLU."""
    return _root(lambda width: account(replace(config, ffn_dim=width)).flops, flops, MULTIPLE)


def width_for_params(config: MoEConfig, params: int, account: Account = everything) -> float:
    """F at which the layer has these parameters, its number of experts being what it is (v1)."""
    return _root(lambda width: account(replace(config, ffn_dim=width)).params, params, MULTIPLE)


def count_for_params(config: MoEConfig, params: int, account: Account = everything) -> float:
    """N at which the layer has these parameters, its experts being as wide as they are (v2)."""
    return _root(lambda count: account(replace(config, num_experts=count)).params, params, config.top_k)


def beta(config: MoEConfig, width: float) -> float:
    """v1's scale of the expert width, F = 4 beta H D."""
    return width / (4 * config.heads * config.d_model)


def nearest_multiple(value: float, multiple: int = MULTIPLE) -> int:
    """The multiple nearest to value, and at least one of it."""
    return max(multiple, round(value / multiple) * multiple)


def match_parameters(config: MoEConfig, target: Figures, account: Account) -> Match:
    """v1: the width at which the layer has the target's parameters with the number of experts that it has.

    Raises:
        ValueError: no width does.
    """
    exact = width_for_params(config, target.params, account)
    width = nearest_multiple(_positive(exact, "parameters", config))
    return Match(_solution(exact, width, account(replace(config, ffn_dim=width)).params, target.params))


def match_flops(config: MoEConfig, target: Figures, account: Account, count: bool = True) -> Match:
    """v2: the width at which the layer has the target's FLOPs, then (`count`) the number of experts of that width,
    rounded, at which it has the target's parameters.

    Raises:
        ValueError: no width or no number of experts does.
    """
    exact = width_for_flops(config, target.flops, account)
    width = nearest_multiple(_positive(exact, "FLOPs", config))
    sized = replace(config, ffn_dim=width)
    found = _solution(exact, width, account(sized).flops, target.flops)
    if not count:
        return Match(found)
    exact = count_for_params(sized, target.params, account)
    number = nearest_multiple(_positive(exact, "parameters", config))
    number = max(number, -(-config.top_k // MULTIPLE) * MULTIPLE)
    params = account(replace(sized, num_experts=number)).params
    return Match(found, _solution(exact, number, params, target.params))


def _solution(exact: float, nearest: int, reached: int, target: int) -> Solution:
    return Solution(exact, nearest, reached / target - 1)


def _positive(exact: float, quantity: str, config: MoEConfig) -> float:
    if exact <= 0:
        raise ValueError(
            f"no experts make the {quantity} equal: head and merge layers and shared expert alone have more than what "
            f"is to be matched; lower mhmoe-head-layers, mhmoe-merge-layers or moe-shared-expert-dim "
            f"({config.num_head_layers}, {config.num_merge_layers}, {config.shared_expert_dim}), or match a larger one"
        )
    return exact


def _root(measure: Callable[[int], int], target: int, start: int) -> float:
    """Where a measure, linear in its argument, has the value target."""
    here, there = measure(start), measure(2 * start)
    return start + (target - here) * start / (there - here)
