"""The MoE layer written for the eye: every sub-token through its experts, one by one, in float64."""

import torch
import torch.nn.functional as F

from fairseq_mhmoe.moe import MoELayer
from fairseq_mhmoe.moe.selection import Selection


def expert(layer: MoELayer, e: int, x: torch.Tensor) -> torch.Tensor:
    """Expert e of a layer without SubLN on rows x."""
    w = layer.experts
    hidden = x @ w.w_in[e].t() + (0 if w.b_in is None else w.b_in[e])
    if w.activation == "swiglu":
        hidden = F.silu(hidden[:, : w.ffn_dim]) * hidden[:, w.ffn_dim :]
    else:
        hidden = F.gelu(hidden) if w.activation == "gelu" else F.relu(hidden)
    return hidden @ w.w_out[e].t() + (0 if w.b_out is None else w.b_out[e])


def run_experts(layer: MoELayer, sub: torch.Tensor, selection: Selection) -> torch.Tensor:
    """Sum over choices of gate * expert(sub), skipping choices of the id N."""
    everywhere = torch.stack([expert(layer, e, sub) for e in range(layer.config.num_experts)], 1)
    weight = F.one_hot(selection.experts, layer.config.num_experts + 1)[..., :-1].to(sub.dtype)
    return torch.einsum("sk,skn,snd->sd", selection.gates, weight, everywhere)
