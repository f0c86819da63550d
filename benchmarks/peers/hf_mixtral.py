"""Hugging Face transformers' sparse block of Mixtral, with its eager loop or its grouped matrix products."""

import torch
from torch import nn

from fairseq_mhmoe.moe import MoELayer

from . import BetweenHeads, Unsupported


def build(layer: MoELayer, implementation: str) -> nn.Module:
    """The peer, see the package; `implementation` is "eager" or "grouped_mm"."""
    try:
        from transformers import MixtralConfig
        from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
    except ImportError as error:
        raise Unsupported(f"transformers is not installed (pip install '.[benchmark]'): {error}") from error
    c = layer.config
    if c.activation != "swiglu":
        raise Unsupported(f"its experts are SwiGLU, not {c.activation}")
    config = MixtralConfig(
        hidden_size=c.d_sub,
        intermediate_size=c.ffn_dim,
        num_local_experts=c.num_experts,
        num_experts_per_tok=c.top_k,
        hidden_act="silu",
    )
    config._experts_implementation = implementation
    block = MixtralSparseMoeBlock(config).to(layer.experts.w_in)
    with torch.no_grad():
        block.gate.weight.copy_(layer.router.weight)
        block.experts.gate_up_proj.copy_(layer.experts.w_in)
        block.experts.down_proj.copy_(layer.experts.w_out)
    return BetweenHeads(layer, block)
