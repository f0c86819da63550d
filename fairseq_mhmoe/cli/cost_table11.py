"""`mhmoe-cost --table 11`: the parameter counts of MH-MoE v1, table 11, beside those of our architectures."""

from dataclasses import dataclass, replace
from typing import Optional

from fairseq_mhmoe.cli.cost_models import preset_model
from fairseq_mhmoe.models.architectures import V1_EXPERT_WIDTHS
from fairseq_mhmoe.moe.cost import Cost, model_cost
from fairseq_mhmoe.moe.parity import beta

CL100K = 100_288  # rows of the embedding: assumed, the paper says about 100.3k (tiktoken's cl100k_base)

TOKENS_PER_SAMPLE = 4096  # 256 sequences of about a million tokens; counts of parameters do not depend on it


@dataclass(frozen=True)
class Row:
    """One model of the table, with its counts in millions."""

    model: str
    experts: int
    cost: Cost
    paper_non_expert: int
    paper_expert: int
    d_ff: Optional[int] = None  # of the experts
    beta: Optional[float] = None
    fitted: bool = False  # d_ff is not the paper's, but solved from its parameters


PAPER = [
    ("dense", 0, 162, 0),
    ("xmoe", 8, 134, 227),
    ("xmoe", 32, 134, 908),
    ("xmoe", 256, 134, 7263),
    ("mhmoe", 8, 141, 213),
    ("mhmoe", 32, 141, 898),
    ("mhmoe", 256, 141, 7230),
]


def table_11() -> list[Row]:
    """All rows of the table that are known, with what our models have."""
    return [_row(*row) for row in PAPER]


def table_11_text(rows: list[Row]) -> str:
    """The table for people: ours / the paper's, in millions."""
    lines = [
        f"MH-MoE v1, table 11: millions of parameters, ours and the paper's; {CL100K:,} rows of vocabulary (assumed)",
        "",
        f"{'model':<8} {'experts':>7} {'d_ff':>7} {'beta':>7} {'non-expert':>18} {'expert':>22}   d_ff is",
    ]
    for row in rows:
        cost = row.cost
        non_expert = f"{cost.params_non_expert / 1e6:.2f} / {row.paper_non_expert}"
        expert = f"{cost.params_expert / 1e6:,.2f} / {row.paper_expert:,}" if row.experts else ""
        width = f"{row.d_ff:,}" if row.d_ff else ""
        scale = f"{row.beta:.4f}" if row.beta else ""
        origin = "" if not row.experts else "fitted to the paper's expert column" if row.fitted else "the paper's"
        line = f"{row.model:<8} {row.experts:>7} {width:>7} {scale:>7} {non_expert:>18} {expert:>22}   {origin}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _row(model: str, experts: int, non_expert: int, expert: int) -> Row:
    changes, width = {"moe_expert_count": experts} if experts else {}, None
    if model == "mhmoe":
        width = V1_EXPERT_WIDTHS[experts]
        changes["moe_ffn_dim"] = width.d_ff
    shape = preset_model(f"{model}_lm_v1", CL100K, TOKENS_PER_SAMPLE, **changes).shape
    row = Row(model, experts, model_cost(shape), non_expert, expert)
    if shape.moe is None:
        return row
    scale = beta(shape.moe, width.d_ff) if width else None
    return replace(row, d_ff=shape.moe.ffn_dim, beta=scale, fitted=width is not None and not width.stated)
