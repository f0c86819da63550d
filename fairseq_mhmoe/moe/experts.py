"""Experts of a layer as stacked weights (N experts, d input width, F inner width, M rows sorted by expert)."""

import math
from typing import List, Optional

import torch
from torch import Tensor, nn

from .activations import Finish
from .backends import choose_backend
from .bitlinear import UNQUANTIZED, Quantization
from .expert_ffn import Job, Source, Weights, lay_out, run_experts
from .grouped import Products


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
        recompute: bool = False,
        fused: bool = False,
        first: int = 0,
        quantization: Quantization = UNQUANTIZED,
    ) -> None:
        """Makes experts `first` .. `first` + N - 1 of a layer; the others may live in other processes."""
        super().__init__()
        self.num_experts, self.ffn_dim, self.first = num_experts, ffn_dim, first
        self.activation, self.rms_norm, self.dropout = activation, rms_norm, dropout
        self.backend, self.recompute, self.fused, self.quantization = backend, recompute, fused, quantization
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
        self,
        x: Tensor,
        counts: Tensor,
        complete: bool = True,
        sizes: Optional[List[int]] = None,
        source: Optional[Source] = None,
        most: Optional[int] = None,
    ) -> Tensor:
        """Run each row through its expert.

        Args:
            x: [M, d] rows sorted by expert; with a source [S, d] the rows that these are copies of.
            counts: [N] rows per expert, on x's device.
            complete: that the counts add up to M; rows behind them get no expert and an arbitrary finite output.
            sizes: the counts on the host, where they are known there already.
            source: which row of x each of the M rows is.
            most: upper bound of every count, where one is known on the host.
        Returns:
            [M, d]
        """
        rows = x.shape[0] if source is None else source.order.numel()
        backend = choose_backend(self.backend, x, [self.w_out.shape[1], self.w_in.shape[1], self.ffn_dim])
        products, slots = lay_out(backend, counts, rows, complete, sizes, most)
        finish = self._finish(products, x)
        job = Job(products, self.activation, self.fused, finish, self.recompute, source, slots, self.quantization)
        return run_experts(x, self._weights(x.dtype), job)

    def _weights(self, dtype: torch.dtype) -> Weights:
        """In the rows' dtype, but matrices that are quantised later as they are."""
        w_in, w_out = (p if self.quantization.weights else p.to(dtype) for p in (self.w_in, self.w_out))
        vectors = (self.b_in, self.b_out, self.norm_weight, self.norm_bias)
        b_in, b_out, norm_weight, norm_bias = (None if p is None else p.to(dtype) for p in vectors)
        return Weights(w_in, b_in, w_out, b_out, norm_weight, norm_bias)

    def _finish(self, products: Products, x: Tensor) -> Finish:
        keep = norm = row_group = None
        if self.dropout and self.training:
            shape = (products.rows, self.ffn_dim)
            keep = torch.empty(shape, dtype=torch.bool, device=x.device).bernoulli_(1 - self.dropout)
        if self.norm_weight is not None:
            norm, row_group = ("rms" if self.rms_norm else "layer"), products.row_group()
        return Finish(keep, 1 - self.dropout, norm, row_group)
