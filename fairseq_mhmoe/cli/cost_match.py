"""`mhmoe-cost MODEL --match BASE`: the experts with which a model costs as much as another of the same body."""

from dataclasses import asdict, fields
from functools import partial
from typing import Dict, Optional

from fairseq_mhmoe.moe.cost import LanguageModelShape
from fairseq_mhmoe.moe.multimodal_cost import cost_of
from fairseq_mhmoe.moe.parity import (
    Account,
    Match,
    Solution,
    beta,
    everything,
    layer_figures,
    match_flops,
    match_parameters,
    matrices,
)

PARITIES = ("v1", "v2")
RULES = {
    "v1": "v1: equal parameters with {count} experts; d_ff = 4 beta h d",
    "v2": "v2: equal FLOPs per token, then equal parameters",
}
ACCOUNTS: Dict[str, Account] = {"matrices": matrices, "counted": everything}
ACCOUNT_NAMES = {
    "matrices": "by the papers' equations (matrices of experts, head and merge)",
    "counted": "all counted (also router, biases, norms)",
}
EXPERTS_ASIDE = ("moe", "moe_freq", "ffn_dim")


def match_models(shape: LanguageModelShape, base: LanguageModelShape, parity: Optional[str] = None) -> dict:
    """What --json prints: rule, cost of both models as they are, and the solution by both accounts.

    Args:
        parity: v1 or v2; default: v2 for SwiGLU experts or where the numbers of experts differ, else v1.
    Raises:
        ValueError: nothing to solve for, the bodies differ, or no experts do.
    """
    _check(shape, base)
    if parity is None:
        same_count = base.moe is not None and base.moe.num_experts == shape.moe.num_experts
        parity = "v1" if same_count and shape.moe.activation != "swiglu" else "v2"
    if parity == "v1" and base.moe is None:
        raise ValueError("--parity v1 makes parameters equal to those of a model with experts; BASE is dense")
    if parity == "v1":
        solve = match_parameters
    else:
        solve = partial(match_flops, count=base.moe is not None)
    found = {}
    for name, account in ACCOUNTS.items():
        found[name] = _as_dict(solve(shape.moe, layer_figures(base, account), account), shape, parity)
    costs = {"model": asdict(cost_of(shape)), "base": asdict(cost_of(base))}
    return {"parity": parity, **costs, **found}


def match_text(found: dict, shape: LanguageModelShape, name: str, base_name: str) -> str:
    """The same for people."""
    lines = [f"{name} matched to {base_name}", RULES[found["parity"]].format(count=shape.moe.num_experts)]
    for account, title in ACCOUNT_NAMES.items():
        lines += ["", f"{title:<62} {'exact':>10} {'multiple of 8':>14} {'deviation':>10}"]
        for key, solution in found[account].items():
            exact, nearest = solution["exact"], solution["nearest_multiple_of_8"]
            digits = 4 if key == "beta" else 1
            miss = "" if key == "beta" else f"{_percent(solution['deviation'])} {_quantity(key, found['parity'])}"
            shown = f"{nearest:.4f}" if key == "beta" else f"{nearest:,}"
            lines.append(f"  {key:<60} {exact:>10,.{digits}f} {shown:>14} {miss}".rstrip())
    lines += ["", f"{'as they are':<62} {_distance(found['model'], found['base'])}"]
    return "\n".join(lines)


def _distance(model: dict, base: dict) -> str:
    parts = (("params_total", "parameters"), ("flops_per_token", "FLOPs per token"))
    return ", ".join(f"{_percent(model[key] / base[key] - 1)} {text}" for key, text in parts)


def _percent(share: float) -> str:
    return f"{round(100 * share, 1) + 0:+.1f} %"  # + 0: no "-0.0"


def _quantity(key: str, parity: str) -> str:
    return "FLOPs" if parity == "v2" and key == "d_ff" else "parameters"


def _as_dict(match: Match, shape: LanguageModelShape, parity: str) -> dict:
    result = {"d_ff": _solution(match.width)}
    if match.count is not None:
        result["experts"] = _solution(match.count)
    if parity == "v1":
        width = match.width
        result["beta"] = _solution(
            Solution(beta(shape.moe, width.exact), beta(shape.moe, width.nearest), width.deviation)
        )
    return result


def _solution(solution: Solution) -> dict:
    return {
        "exact": solution.exact,
        "nearest_multiple_of_8": solution.nearest,
        "deviation": solution.deviation,
    }


def _check(shape: LanguageModelShape, base: LanguageModelShape) -> None:
    if shape.moe is None:
        raise ValueError("--match solves for the experts of a model with experts; this one is dense")
    if type(shape) is not type(base):
        raise ValueError("--match: one is a language model, the other a multimodal one")
    for field in fields(shape):
        ours, theirs = getattr(shape, field.name), getattr(base, field.name)
        if field.name not in EXPERTS_ASIDE and ours != theirs:
            raise ValueError(f"--match: {field.name} is {ours} here and {theirs} in BASE; the bodies have to be equal")
    if base.moe is not None and base.moe_freq != shape.moe_freq:
        raise ValueError(f"--match: moe_freq is {shape.moe_freq} here and {base.moe_freq} in BASE")
    if base.moe is not None and base.ffn_dim != shape.ffn_dim:
        raise ValueError(f"--match: ffn_dim is {shape.ffn_dim} here and {base.ffn_dim} in BASE")
