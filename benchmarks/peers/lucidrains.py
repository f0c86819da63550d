"""lucidrains' mixture-of-experts: one-hot dispatch masks within each sequence, two experts a token."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_mhmoe.moe import MoELayer

from . import BetweenHeads, Unsupported, refuse_large_masks


class SwiGLUExperts(nn.Module):
    """The package has no SwiGLU; its layer takes any module that maps [N, rows, d] to the same."""

    def __init__(self, w_in: Tensor, w_out: Tensor) -> None:
        super().__init__()
        self.w_in, self.w_out = nn.Parameter(w_in.contiguous()), nn.Parameter(w_out.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """[N, rows, d] -> [N, rows, d]."""
        gate, up = torch.einsum("nrd,ndf->nrf", x, self.w_in).chunk(2, -1)
        return torch.einsum("nrf,nfd->nrd", F.silu(gate) * up, self.w_out)


class Block(nn.Module):
    """The layer, its output alone."""

    def __init__(self, moe: nn.Module) -> None:
        super().__init__()
        self.moe = moe

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, d] -> [B, S, d]."""
        return self.moe(x)[0]


def build(layer: MoELayer, shape: torch.Size) -> nn.Module:
    """The peer, see the package. In evaluation nothing is dropped, in training what exceeds its capacity."""
    try:
        from mixture_of_experts import MoE
    except ImportError as error:
        raise Unsupported(f"mixture-of-experts is not installed (pip install '.[benchmark]'): {error}") from error
    c = layer.config
    if c.top_k != 2:
        raise Unsupported(f"its gate chooses 2 experts, not {c.top_k}")
    if layer.experts.w_in.dtype != torch.float32:
        raise Unsupported(f"its masks are float32 and do not multiply {layer.experts.w_in.dtype}")
    rows = shape[0] * shape[1] * c.heads
    refuse_large_masks(rows, c.top_k * shape[1] * c.heads, layer.experts.w_in.element_size())
    w_in, w_out = (stack.detach().transpose(1, 2) for stack in (layer.experts.w_in, layer.experts.w_out))
    moe = MoE(
        c.d_sub,
        c.num_experts,
        c.ffn_dim,
        activation=nn.GELU if c.activation == "gelu" else nn.ReLU,
        second_policy_train="all",
        second_policy_eval="all",
        capacity_factor_train=float(c.top_k),
        capacity_factor_eval=float(c.num_experts),
        experts=SwiGLUExperts(w_in, w_out) if c.activation == "swiglu" else None,
    )
    if c.activation != "swiglu":
        moe.experts.w1.data, moe.experts.w2.data = w_in.contiguous(), w_out.contiguous()
    moe.gate.w_gating.data = layer.router.weight.detach().t().contiguous()
    return BetweenHeads(layer, Block(moe).to(layer.experts.w_in))
