"""What benchmarks/moe_layer.py measures: configurations, cases, and routing that is skewed on purpose.

D model width, H heads, d = D / H, N experts, K choices, F their inner width, S = tokens * H sub-tokens, M = S * K rows.
"""

from dataclasses import dataclass
from typing import Dict, Optional

import torch
from torch import Tensor, nn

from fairseq_mhmoe.moe import MoEConfig, MoELayer
from fairseq_mhmoe.moe.cost import moe_layer_cost

SEQUENCE = 512  # T; tokens are B sequences of this length, or one shorter one
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ROUTING = ("balanced", "zipf", "one")  # as the router starts, nearly even; a Zipf law; all to the first K experts
PREFERENCE = 4.0  # how far a chosen expert's logit lies above the others'


def _config(d_model: int, heads: int, experts: int, top_k: int, ffn_dim: int, activation: str) -> MoEConfig:
    normalize = "before" if top_k > 1 else "none"
    return MoEConfig(
        d_model, experts, ffn_dim, top_k, heads, activation=activation, bias=False, normalize_gates=normalize
    )


# MH-MoE v2's three models (SMoE and MH-MoE with 2 and 3 heads, equal in FLOPs and nearly in parameters), v1's layer
# with 8 and 32 experts and one of the same kind with narrower experts, and two small layers where overhead shows.
CONFIGS: Dict[str, MoEConfig] = {
    "a": _config(768, 1, 8, 1, 2048, "swiglu"),
    "b": _config(768, 2, 40, 2, 768, "swiglu"),
    "c": _config(768, 3, 96, 3, 512, "swiglu"),
    "d8": _config(768, 4, 8, 2, 12096, "gelu"),
    "d32": _config(768, 4, 32, 2, 12096, "gelu"),
    "dr": _config(768, 4, 8, 2, 3072, "relu"),
    "e": _config(256, 2, 16, 2, 256, "swiglu"),
    "e1": _config(128, 4, 8, 2, 512, "gelu"),
}


@dataclass(frozen=True)
class Case:
    """One size of one layer."""

    config: str  # key of CONFIGS
    dtype: str  # key of DTYPES
    tokens: int
    num_experts: Optional[int] = None  # N instead of the configuration's

    @property
    def layer_config(self) -> MoEConfig:
        """Sizes and rules of the layer."""
        return with_fields(CONFIGS[self.config], num_experts=self.num_experts or CONFIGS[self.config].num_experts)

    def check(self) -> None:
        """Raises ValueError when there can be no such case."""
        _ = self.shape, self.layer_config

    @property
    def shape(self) -> torch.Size:
        """[B, T, D] of the input."""
        length = min(self.tokens, SEQUENCE)
        if self.tokens % length:
            raise ValueError(f"{self.tokens} tokens; expected less than {SEQUENCE} or a multiple of it")
        return torch.Size([self.tokens // length, length, self.layer_config.d_model])

    @property
    def sub_tokens(self) -> int:
        """S."""
        return self.tokens * self.layer_config.heads

    @property
    def forward_flops(self) -> int:
        """Of the matrix products of one forward pass; a backward pass has twice as many."""
        return self.tokens * moe_layer_cost(self.layer_config).flops_per_token // 3

    @property
    def keys(self) -> dict:
        """What tells its rows from others'."""
        return {
            "config": self.config,
            "dtype": self.dtype,
            "tokens": self.tokens,
            "num_experts": self.layer_config.num_experts,
        }

    def __str__(self) -> str:
        k = self.keys
        return f"{k['config']} N={k['num_experts']} {k['dtype']} {k['tokens']} tokens"


def with_fields(config: MoEConfig, **fields) -> MoEConfig:
    """A copy with other values, checked again."""
    values = {name: getattr(config, name) for name in config.__dataclass_fields__}
    return MoEConfig(**{**values, **fields})


def sweep_case(config: str, dtype: str, experts: int, rows_per_expert: int) -> Case:
    """The case of N experts with at least `rows_per_expert` rows each, tokens being a multiple of 16."""
    c = CONFIGS[config]
    tokens = -(-experts * rows_per_expert // (c.heads * c.top_k))
    step = SEQUENCE if tokens > SEQUENCE else 16
    return Case(config, dtype, -(-tokens // step) * step, num_experts=experts)


class FixedRouter(nn.Module):
    """A router whose logits on one known input are given ones: its own, plus what is missing. It costs one addition."""

    def __init__(self, router: nn.Module, missing: Tensor) -> None:
        super().__init__()
        self.router = router
        self.register_buffer("missing", missing, persistent=False)

    def forward(self, sub: Tensor) -> Tensor:
        """[S, d] -> [S, N]."""
        return self.router(sub) + self.missing


@torch.no_grad()
def skew_routing(layer: MoELayer, x: Tensor, routing: str) -> None:
    """Make the layer route x [B, T, D] by a law; does nothing for "balanced".

    "zipf": first choices follow a Zipf law, expert i being chosen in proportion to 1 / i, and further choices are drawn
    by the same law without replacement. "one": all go to the first K experts.
    """
    if routing == "balanced":
        return
    own = _logits(layer, x)
    generator = torch.Generator().manual_seed(0)
    wanted = wanted_logits(own.shape[0], layer.config, routing, generator).to(own)
    layer.router = FixedRouter(layer.router, wanted - own)


def wanted_logits(rows: int, config: MoEConfig, routing: str, generator: torch.Generator) -> Tensor:
    """[S, N] logits whose K largest are drawn by the law and lie by about PREFERENCE above the others, which are 0."""
    noise = torch.empty(rows, config.num_experts).exponential_(generator=generator)
    if routing == "zipf":  # Gumbel-top-k draws without replacement
        law = -torch.arange(1, config.num_experts + 1).float().log() - noise.log()
    else:
        law = -torch.arange(config.num_experts).float().expand_as(noise)
    chosen = law.topk(config.top_k, dim=1).indices
    above = PREFERENCE - torch.arange(config.top_k) / config.top_k
    return torch.zeros_like(noise).scatter_(1, chosen, above.expand_as(chosen).contiguous())


def _logits(layer: MoELayer, x: Tensor) -> Tensor:
    """What the router gives in a forward pass of the layer."""
    seen = []
    hook = layer.router.register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        layer(x)
    finally:
        hook.remove()
    return seen[0].detach().clone()
