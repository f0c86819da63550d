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


def straight_through(x: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """The value of the one with the gradient of the other."""
    return x + (quantized - x).detach()


def int8_rows(x: torch.Tensor) -> torch.Tensor:
    """BitNet's absmax per token, as the published code has it."""
    largest = x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
    return straight_through(x, (127 / largest * x).round().clamp(-128, 127) * largest / 127)


def ternary(weight: torch.Tensor) -> torch.Tensor:
    """BitNet's absmean of one matrix, as the published code has it."""
    mean = weight.abs().mean().clamp(min=1e-5)
    return straight_through(weight, (weight / mean).round().clamp(-1, 1) * mean)
