"""Parameters and training FLOPs of a decoder language model with or without MoE layers (D width, H heads, N experts,
K choices, F inner width, T tokens per sample, V vocabulary)."""

from dataclasses import dataclass
from typing import Optional, Tuple

from .config import MoEConfig
from .router import measured_cost
from .router_base import own_router

TRAINING_PASSES = 3  # forward, and twice that for the gradients of inputs and weights
FLOPS_PER_MAC = 2


@dataclass(frozen=True)
class LanguageModelShape:
    """What the cost of a language model depends on."""

    vocab_size: int
    layers: int
    d_model: int
    attention_heads: int
    kv_heads: int
    ffn_dim: int  # of the dense layers
    activation: str  # relu, gelu, swiglu
    bias: bool
    rms_norm: bool
    subln: bool
    tied: bool  # input and output embedding are one
    learned_positions: int  # rows of the position embedding, 0 without
    layernorm_embedding: bool
    tokens_per_sample: int  # T, keys that attention sees
    moe_freq: int  # layer i is a MoE layer when (i + 1) % moe_freq == 0; 0 = never
    moe: Optional[MoEConfig] = None
    pre_norm: bool = True

    @property
    def moe_layers(self) -> int:
        """How many of the layers are MoE layers."""
        return self.layers // self.moe_freq if self.moe is not None and self.moe_freq else 0


@dataclass(frozen=True)
class Cost:
    """Parameters, and FLOPs per token of one training step."""

    params_total: int
    params_non_expert: int
    params_expert: int  # routed experts; a shared expert is not one of them
    params_activated: int  # what one token passes: non-expert, and K * H experts at most N
    flops_per_token: int  # 3 x the forward's matrix products, attention over all T keys included

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, f) + getattr(other, f) for f in self.__dataclass_fields__))


def feed_forward_params(d: int, ffn_dim: int, activation: str, bias: bool, subln: bool, rms_norm: bool) -> int:
    """Weights, biases and inner norm of one feed-forward network of input width d."""
    inner = 2 * ffn_dim if activation == "swiglu" else ffn_dim
    norm = (ffn_dim if rms_norm else 2 * ffn_dim) if subln else 0
    return inner * d + d * ffn_dim + (inner + d if bias else 0) + norm


def feed_forward_macs(d: int, ffn_dim: int, activation: str) -> int:
    """Multiply-adds per row of the feed-forward's 2 (relu, gelu) or 3 (SwiGLU) matrices."""
    return (3 if activation == "swiglu" else 2) * d * ffn_dim


def router_cost(config: MoEConfig) -> Tuple[int, int]:
    """Parameters, and multiply-adds per sub-token: gate weights; projection, expert embeddings and X-MoE's temperature.

    A registered router is made and asked.
    """
    if own_router(config.router) is not None:
        return measured_cost(config)
    if config.router == "softmax":
        return (config.num_experts * config.d_sub,) * 2
    macs = config.projected_dim * (config.d_sub + config.num_experts)
    return macs + (config.router == "xmoe"), macs


def moe_layer_cost(config: MoEConfig) -> Cost:
    """Cost of one MoE layer (MH-MoE v2, section 3: head + merge 2 D^2, experts H K of width D / H)."""
    c = config
    d, linears = c.d_sub, c.num_head_layers + c.num_merge_layers
    expert = feed_forward_params(d, c.ffn_dim, c.activation, c.bias, c.subln, c.rms_norm)
    router_params, router_macs = router_cost(c)
    non_expert = router_params + linears * (c.d_model**2 + c.d_model)
    macs = linears * c.d_model**2 + c.heads * (router_macs + c.top_k * feed_forward_macs(d, c.ffn_dim, c.activation))
    if c.shared_expert_dim:
        shared = (c.d_model, c.shared_expert_dim, c.activation)
        non_expert += feed_forward_params(*shared, c.bias, c.subln, c.rms_norm)
        macs += feed_forward_macs(*shared)
    experts = c.num_experts * expert
    activated = non_expert + min(c.heads * c.top_k, c.num_experts) * expert
    return Cost(non_expert + experts, non_expert, experts, activated, training_flops(macs))


def model_cost(shape: LanguageModelShape) -> Cost:
    """Cost of a whole decoder language model."""
    s = shape
    norm = s.d_model if s.rms_norm else 2 * s.d_model
    kv_width = s.d_model // s.attention_heads * s.kv_heads
    projections = 2 * s.d_model**2 + 2 * s.d_model * kv_width
    attention = projections + (2 * s.d_model + 2 * kv_width if s.bias else 0) + (norm if s.subln else 0)
    embeddings = s.vocab_size * s.d_model * (1 if s.tied else 2) + s.learned_positions * s.d_model
    norms = 2 * s.layers + s.layernorm_embedding + s.pre_norm
    body = _dense(embeddings + norms * norm, s.vocab_size * s.d_model)
    body += _times(s.layers, _dense(attention, projections + 2 * s.tokens_per_sample * s.d_model))
    ffn_params = feed_forward_params(s.d_model, s.ffn_dim, s.activation, s.bias, s.subln, s.rms_norm)
    ffn = _dense(ffn_params, feed_forward_macs(s.d_model, s.ffn_dim, s.activation))
    body += _times(s.layers - s.moe_layers, ffn)
    if s.moe is None or not s.moe_layers:
        return body
    return body + _times(s.moe_layers, moe_layer_cost(s.moe))


def training_flops(macs: int) -> int:
    """FLOPs of forward and backward pass for a forward pass of so many multiply-adds."""
    return TRAINING_PASSES * FLOPS_PER_MAC * macs


def _dense(params: int, macs: int) -> Cost:
    return Cost(params, params, 0, params, training_flops(macs))


def _times(count: int, cost: Cost) -> Cost:
    return Cost(*(count * getattr(cost, f) for f in cost.__dataclass_fields__))
