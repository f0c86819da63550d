"""The three models of the demonstration and how they are trained: equal in body, data and training FLOPs per token.

The dense model sets the FLOPs. The inner width of the experts of X-MoE and MH-MoE is solved from the cost model, and
MH-MoE gets as many (smaller) experts as make its parameters equal to X-MoE's (MH-MoE v2, section 3).
"""

from dataclasses import dataclass, replace

from fairseq_mhmoe.cli.cost_models import words_model
from fairseq_mhmoe.moe.cost import Cost, LanguageModelShape
from fairseq_mhmoe.moe.multimodal_cost import MultimodalShape, cost_of
from fairseq_mhmoe.moe.parity import count_for_params, everything, nearest_multiple, width_for_flops

TOKENS_PER_SAMPLE = 128
SEQUENCES_PER_UPDATE = 8
UPDATES = 400
Shape = LanguageModelShape | MultimodalShape
WIDTH_STEP = 8  # inner widths are multiples of this: what matrix kernels like

BODY = {
    "decoder-embed-dim": 128,
    "decoder-layers": 4,
    "decoder-attention-heads": 4,
    "decoder-ffn-embed-dim": 384,
}
# X-MoE has its own router; MH-MoE routes by softmax as in v2.
ROUTING = {"moe-top-k": 2, "moe-normalize-gate-prob-before-dropping": True}
XMOE = ROUTING | {"moe-expert-count": 8, "use-xmoe": True}
MHMOE = ROUTING | {"mhmoe-heads-number": 2}


@dataclass(frozen=True)
class DemoModel:
    """One row of the table: its name, its architecture options and what they cost."""

    name: str
    words: list[str]
    cost: Cost


def words_of(settings: dict) -> list[str]:
    """{"lr": 0.1, "bf16": True} -> ["--lr", "0.1", "--bf16"]."""
    words = []
    for name, value in settings.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def training_words(updates: int) -> list[str]:
    """What all three models share: data, optimizer and schedule."""
    return words_of(
        {
            "task": "gpt",
            "sample-break-mode": "none",
            "tokens-per-sample": TOKENS_PER_SAMPLE,
            "batch-size": SEQUENCES_PER_UPDATE,
            "criterion": "moe_cross_entropy",
            "optimizer": "adam",
            "adam-betas": "(0.9, 0.95)",
            "adam-eps": 1e-6,
            "weight-decay": 0.1,
            "clip-norm": 1.0,
            "lr": 4e-3,
            "lr-scheduler": "polynomial_decay",
            "warmup-updates": min(50, updates // 2),
            "end-learning-rate": 4e-4,
            "total-num-update": updates,
            "max-update": updates,
            "seed": 1,
        }
    )


def demo_models(vocab_size: int) -> list[DemoModel]:
    """Dense, X-MoE and MH-MoE for a dictionary of vocab_size symbols."""
    dense = make_model("dense", {"arch": "dense_lm_tiny"}, vocab_size)
    target = dense.cost.flops_per_token
    shape = shape_of({"arch": "xmoe_lm_tiny"} | BODY | XMOE, vocab_size)
    xmoe_settings = {"arch": "xmoe_lm_tiny"} | XMOE | {"moe-ffn-dim": solve_expert_width(shape, target)}
    xmoe = make_model("xmoe", xmoe_settings, vocab_size)
    shape = shape_of({"arch": "mhmoe_lm_tiny"} | BODY | MHMOE, vocab_size)
    width = solve_expert_width(shape, target)
    count = solve_expert_count(with_experts(shape, ffn_dim=width), xmoe.cost.params_total)
    mhmoe_settings = {"arch": "mhmoe_lm_tiny"} | MHMOE | {"moe-expert-count": count, "moe-ffn-dim": width}
    return [dense, xmoe, make_model("mhmoe", mhmoe_settings, vocab_size)]


def make_model(name: str, settings: dict, vocab_size: int) -> DemoModel:
    """A model of the common body with these options on top, and what it costs."""
    settings = settings | BODY
    return DemoModel(name, words_of(settings), cost_of(shape_of(settings, vocab_size)))


def shape_of(settings: dict, vocab_size: int) -> LanguageModelShape:
    """The shape that fairseq-train would build from these options."""
    words = [*words_of(settings), "--tokens-per-sample", str(TOKENS_PER_SAMPLE)]
    return words_model(words, vocab_size).shape


def with_experts(shape: Shape, **changes) -> Shape:
    """The shape with some fields of its MoE layers changed."""
    return replace(shape, moe=replace(shape.moe, **changes))


def solve_expert_width(shape: Shape, flops: int) -> int:
    """The inner width, a multiple of WIDTH_STEP, whose FLOPs per token are nearest to `flops`."""
    missing = (flops - cost_of(shape).flops_per_token) // shape.moe_layers
    return nearest_multiple(width_for_flops(shape.moe, everything(shape.moe).flops + missing), WIDTH_STEP)


def solve_expert_count(shape: Shape, params: int) -> int:
    """The number of experts whose total parameters are nearest to `params`."""
    missing = (params - cost_of(shape).params_total) // shape.moe_layers
    return max(shape.moe.top_k, round(count_for_params(shape.moe, everything(shape.moe).params + missing)))
