"""The models whose training steps are measured: one body, MoE in every second block, costs solved to be equal.

The dense model sets the FLOPs per token. SMoE, X-MoE, MH-MoE v2 and torchscale's models have the same; MH-MoE v1 has
the parameters of X-MoE instead, and about as many times the FLOPs in its experts as it has heads.
"""

from dataclasses import dataclass
from pathlib import Path

from fairseq_mhmoe.cli.demo_models import (
    WIDTH_STEP,
    shape_of,
    solve_expert_count,
    solve_expert_width,
    with_experts,
    words_of,
)
from fairseq_mhmoe.moe.cost import Cost, model_cost

ROOT = Path(__file__).resolve().parents[1]
OURS, THEIRS = ROOT / "fairseq_mhmoe", ROOT / "benchmarks" / "torchscale_lm"

HEAD_WIDTH = 64  # of attention
EXPERTS = 8
TOP_K = 2
V1_HEADS, V2_HEADS = 4, 2
# "classic" is what torchscale has too; "v2" is the style of MH-MoE v2, which it has not.
STYLES = {
    "classic": {"arch": "gpt_tiny", "activation-fn": "gelu", "decoder-learned-pos": True},
    "v2": {"arch": "dense_lm_tiny"},
}
NAMES = (
    "dense",
    "smoe",
    "xmoe",
    "mhmoe_v1",
    "mhmoe_v2",
    "torchscale_dense",
    "torchscale_top2",
    "torchscale_xmoe",
)


@dataclass(frozen=True, eq=False)
class StepModel:
    """A model: its options for fairseq-train, the user-dir that knows them, and what it costs."""

    name: str
    words: list[str]
    user_dir: Path
    cost: Cost


def step_models(names, style: str, width: int, layers: int, vocab_size: int) -> list[StepModel]:
    """The models of these names; those of torchscale only in the style "classic".

    Raises:
        ValueError: the width is no multiple of what attention and MH-MoE split it into.
    """
    if width < HEAD_WIDTH or width % HEAD_WIDTH:
        raise ValueError(f"--width {width}: expected a multiple of {HEAD_WIDTH}, the width of an attention head")
    if layers < 2:
        raise ValueError(f"--layers {layers}: expected 2 or more; every second one is a MoE layer")
    body = {
        "decoder-embed-dim": width,
        "decoder-layers": layers,
        "decoder-attention-heads": width // HEAD_WIDTH,
        "decoder-ffn-embed-dim": 4 * width,
        "share-decoder-input-output-embed": True,
    }
    counterparts = {name: name.removeprefix("torchscale_").replace("top2", "smoe") for name in names}
    solved = solve(set(counterparts.values()), STYLES[style] | body, vocab_size)
    models = []
    for name, ours in counterparts.items():
        settings, cost = solved[ours]
        if name == ours:
            models.append(StepModel(name, words_of(settings), OURS, cost))
        elif style == "classic":
            models.append(StepModel(name, words_of(as_torchscale(settings)), THEIRS, cost))
    return models


def solve(names: set[str], body: dict, vocab_size: int) -> dict[str, tuple[dict, Cost]]:
    """Name -> options and cost, for the models of ours among these names and those that they are measured by."""
    routing = {"moe-freq": 2, "moe-top-k": TOP_K, "moe-normalize-gate-prob-before-dropping": True}
    smoe = body | routing | {"moe-expert-count": EXPERTS}
    xmoe = smoe | {"use-xmoe": True}
    dense_cost = model_cost(shape_of(body, vocab_size))
    solved = {"dense": (body, dense_cost)}
    for name, settings in (("smoe", smoe), ("xmoe", xmoe)):
        if name in names or (name == "xmoe" and names & {"mhmoe_v1", "mhmoe_v2"}):
            shape = shape_of(settings, vocab_size)
            solved[name] = with_width(settings, shape, solve_expert_width(shape, dense_cost.flops_per_token))
    if "mhmoe_v1" in names:
        settings = xmoe | {"mhmoe-heads-number": V1_HEADS}
        shape = shape_of(settings, vocab_size)
        width = solve_width_for_params(shape, solved["xmoe"][1].params_total)
        solved["mhmoe_v1"] = with_width(settings, shape, width)
    if "mhmoe_v2" in names:
        settings = smoe | {"mhmoe-heads-number": V2_HEADS}
        shape = shape_of(settings, vocab_size)
        width = solve_expert_width(shape, dense_cost.flops_per_token)
        count = solve_expert_count(with_experts(shape, ffn_dim=width), solved["xmoe"][1].params_total)
        shape = with_experts(shape, num_experts=count)
        solved["mhmoe_v2"] = with_width(settings | {"moe-expert-count": count}, shape, width)
    return solved


def with_width(settings: dict, shape, width: int) -> tuple[dict, Cost]:
    """The options with this inner width of the experts, and what they cost."""
    return settings | {"moe-ffn-dim": width}, model_cost(with_experts(shape, ffn_dim=width))


def solve_width_for_params(shape, params: int) -> int:
    """The inner width of the experts, a multiple of WIDTH_STEP, that makes all parameters nearest to `params` (v1)."""

    def distance(width: int) -> int:
        return abs(model_cost(with_experts(shape, ffn_dim=width)).params_total - params)

    return min(range(WIDTH_STEP, 16 * shape.ffn_dim, WIDTH_STEP), key=distance)


def as_torchscale(settings: dict) -> dict:
    """Our options of a dense, SMoE or X-MoE model as those of benchmarks/torchscale_lm."""
    ours_alone = ("arch", "decoder-learned-pos", "moe-top-k", "moe-normalize-gate-prob-before-dropping")
    kept = {name: value for name, value in settings.items() if name not in ours_alone}
    return {"arch": "torchscale_lm"} | kept
