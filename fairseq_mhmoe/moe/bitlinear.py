"""BitNet b1.58 (arXiv 2402.17764): inputs of 8 bits, ternary weights, straight-through gradients.

Rows [..., d] are quantised each by itself, matrices [..., out, in] likewise. What is stored, and trained, stays in full
precision; what is quantised is held in the rows' type and formed again in the backward pass instead of being kept.
"""

from typing import Any, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .precision import autocast_dtype, without_autocast

FULL_BITS, INPUT_BITS, WEIGHT_BITS = 32, 8, 1
LARGEST_LEVEL = 127  # of an int8
SMALLEST_SCALE = 1e-5


def quantize_rows(x: Tensor) -> Tensor:
    """Absmax per token: each row's multiples of max|x| / 127, rounded half to even: [..., d] -> [..., d].

    The arithmetic is float32's (float64's for float64), the result has the type of x.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    step = x.abs().amax(-1, keepdim=True).to(wide).clamp_(min=SMALLEST_SCALE).div_(LARGEST_LEVEL)
    return (x.to(wide) / step).round_().mul_(step).to(x.dtype)  # nothing lies outside of -127 .. 127


def quantize_matrices(weight: Tensor, dtype: torch.dtype, parts: int = 1) -> Tensor:
    """Absmean: each matrix's -1, 0 or 1 nearest to W / mean|W|, times mean|W|: [..., out, in] -> the same shape.

    Args:
        dtype: of the result.
        parts: matrices that lie above each other in `out`; each has its own mean.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    matrices: Tensor = weight.unflatten(-2, (parts, -1))
    scale = matrices.abs().mean((-2, -1), keepdim=True, dtype=wide).clamp_(min=SMALLEST_SCALE)
    return (matrices / scale).round_().clamp_(-1, 1).mul_(scale).to(dtype).flatten(-3, -2)


class Quantization(NamedTuple):
    """Which sides of a matrix product are quantised; without any, everything passes unchanged."""

    inputs: bool = False
    weights: bool = False

    @classmethod
    def of_bits(cls, input_bits: int, weight_bits: int) -> "Quantization":
        """8 bits of inputs, 1 bit (in truth log2 3) of weights; 32 for none."""
        return cls(input_bits == INPUT_BITS, weight_bits == WEIGHT_BITS)

    def rows(self, x: Tensor) -> Tensor:
        """[..., d] as a product takes it; without autograd."""
        return quantize_rows(x) if self.inputs else x

    def matrices(self, weight: Tensor, dtype: torch.dtype, parts: int = 1) -> Tensor:
        """[..., out, in] as a product with rows of `dtype` takes it; without autograd."""
        return quantize_matrices(weight, dtype, parts) if self.weights else weight.to(dtype)

    def enter(self, x: Tensor) -> Tensor:
        """[..., d] as linear layers take it. Its gradient is that of x itself (straight-through)."""
        entered: Tensor = _StraightThroughRows.apply(x) if self.inputs else x
        return entered

    def linear(self, inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
        """A linear layer for what `enter` returns; parameters and initial values are those of nn.Linear."""
        return (TernaryLinear if self.weights else nn.Linear)(inputs, outputs, bias)


UNQUANTIZED = Quantization()


class TernaryLinear(nn.Linear):
    """y = x Wq^T + b with Wq = `quantize_matrices` of the weight; the gradient of Wq is taken for that of W."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        y: Tensor = _TernaryProduct.apply(x.to(autocast_dtype(x.device.type) or x.dtype), self.weight, self.bias)
        return y


class _StraightThroughRows(torch.autograd.Function):
    """Several layers share the result, and in mixed precision no layer has to convert it again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return quantize_rows(x).to(autocast_dtype(x.device.type) or x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.to(ctx.dtype)


class _TernaryProduct(torch.autograd.Function):
    """x Wq^T + b that keeps x and W: dx = dy Wq, dW = dy^T x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
        with without_autocast(x.device.type):
            return F.linear(x, quantize_matrices(weight, x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], Optional[Tensor], Optional[Tensor]]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        with without_autocast(grad.device.type):
            return (
                grad @ quantize_matrices(weight, grad.dtype) if need_x else None,
                (rows.t() @ x.reshape(-1, x.shape[-1])).to(weight.dtype) if need_weight else None,
                rows.sum(0).to(weight.dtype) if need_bias else None,
            )
