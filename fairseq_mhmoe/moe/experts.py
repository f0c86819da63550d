"""Experts of a layer as stacked weights (N experts, d input width, F inner width, M rows sorted by expert)."""

import math
from typing import List, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .grouped import choose_backend, expand, grouped_linear, make_groups

NORM_EPS = 1e-5


class StackedExperts(nn.Module):
    """N feed-forward networks: act(x W_in^T + b_in) W_out^T + b_out, relu, gelu or SwiGLU, optional SubLN.

    SwiGLU's gate and up projections are stacked in one weight [N, 2F, d], gate rows first:
    (silu(x W_gate^T) * (x W_up^T)) W_out^T (MH-MoE v2).
    """

    def __init__(
        self,
        num_experts: int,
        d: int,
        ffn_dim: int,
        activation: str,
        bias: bool = True,
        subln: bool = False,
        rms_norm: bool = False,
        dropout: float = 0.0,
        backend: str = "auto",
        first: int = 0,
    ) -> None:
        """Makes experts `first` .. `first` + N - 1 of a layer; the others may live in other processes."""
        super().__init__()
        self.num_experts, self.ffn_dim, self.first = num_experts, ffn_dim, first
        self.activation, self.rms_norm, self.dropout, self.backend = activation, rms_norm, dropout, backend
        inner = 2 * ffn_dim if activation == "swiglu" else ffn_dim
        self.w_in = nn.Parameter(torch.empty(num_experts, inner, d))
        self.w_out = nn.Parameter(torch.empty(num_experts, d, ffn_dim))
        self.b_in = nn.Parameter(torch.empty(num_experts, inner)) if bias else None
        self.b_out = nn.Parameter(torch.empty(num_experts, d)) if bias else None
        self.norm_weight = nn.Parameter(torch.empty(num_experts, ffn_dim)) if subln else None
        self.norm_bias = nn.Parameter(torch.empty(num_experts, ffn_dim)) if subln and not rms_norm else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Each expert as its own nn.Linear layers would start: uniform in +- 1 / sqrt(fan in).

        An expert's numbers depend on torch's seed and its place in the layer, not on how many processes share it.
        """
        seed = int(torch.randint(2**62, (), device="cpu"))
        for expert in range(0 if self.w_in.is_meta else self.num_experts):
            generator = torch.Generator(self.w_in.device).manual_seed(seed + self.first + expert)
            for weight, bias in ((self.w_in, self.b_in), (self.w_out, self.b_out)):
                bound = 1 / math.sqrt(weight.shape[2])
                for tensor in (weight, bias):
                    if tensor is not None:
                        tensor[expert].uniform_(-bound, bound, generator=generator)
        if self.norm_weight is not None:
            nn.init.ones_(self.norm_weight)
        if self.norm_bias is not None:
            nn.init.zeros_(self.norm_bias)

    @torch.no_grad()
    def scale_weights(self, factor: float) -> None:
        """Multiply all matrices and biases, as SubLN and DeepNorm do at initialisation."""
        for parameter in (self.w_in, self.w_out, self.b_in, self.b_out):
            if parameter is not None:
                parameter.mul_(factor)

    def forward(
        self, x: Tensor, counts: Tensor, complete: bool = True, sizes: Optional[List[int]] = None
    ) -> Tensor:
        """Run each row through its expert.

        Args:
            x: [M, d] rows sorted by expert.
            counts: [N] rows per expert, on x's device.
            complete: that the counts add up to M; rows behind them get no expert and an arbitrary finite output.
            sizes: the counts on the host, where they are known there already.
        Returns:
            [M, d]
        """
        width, inner = self.w_out.shape[1], self.w_in.shape[1]
        backend = choose_backend(self.backend, x, [width, inner, self.ffn_dim])
        groups = make_groups(counts, x.shape[0], complete, backend, sizes)
        row_expert = groups.row_group() if self.b_in is not None or self.norm_weight is not None else None
        hidden = grouped_linear(x, self.w_in.to(x.dtype), groups)
        if self.b_in is not None:
            hidden = hidden + expand(self.b_in.to(x.dtype), row_expert)
        hidden = F.dropout(self._activate(hidden), self.dropout, self.training)
        if self.norm_weight is not None:
            hidden = self._normalize(hidden, row_expert)
        y = grouped_linear(hidden, self.w_out.to(x.dtype), groups)
        return y if self.b_out is None else y + expand(self.b_out.to(x.dtype), row_expert)

    def _activate(self, hidden: Tensor) -> Tensor:
        if self.activation == "swiglu":
            return _SwiGLU.apply(hidden)
        return F.gelu(hidden) if self.activation == "gelu" else F.relu(hidden)

    def _normalize(self, hidden: Tensor, row_expert: Tensor) -> Tensor:
        shape = (self.ffn_dim,)
        norm = F.rms_norm(hidden, shape, eps=NORM_EPS) if self.rms_norm else F.layer_norm(hidden, shape, eps=NORM_EPS)
        norm = norm * expand(self.norm_weight.to(norm.dtype), row_expert)
        return norm if self.norm_bias is None else norm + expand(self.norm_bias.to(norm.dtype), row_expert)


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up for [M, 2F] = gate | up, with one gradient buffer and only the input kept."""

    @staticmethod
    def forward(ctx, hidden):
        ctx.save_for_backward(hidden)
        gate, up = hidden.chunk(2, 1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad):
        (hidden,) = ctx.saved_tensors
        gate, up = hidden.chunk(2, 1)
        grad_hidden = torch.empty_like(hidden)
        grad_gate, grad_up = grad_hidden.chunk(2, 1)
        torch.mul(grad, F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grad_hidden
