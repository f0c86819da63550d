"""What an expert computes between its matrices (M rows, F inner width): activation, dropout, SubLN's norm.

SwiGLU's input is [M, 2F], gate columns first, or [2, M, F], gate first (`halves`).
"""

from functools import cache
from typing import Any, Callable, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .grouped import halves

NORM_EPS = 1e-5


def activate(pre: Tensor, kind: str, fused: bool = False) -> Tensor:
    """relu, gelu (exact) or swiglu, silu(gate) * up: [M, F], or SwiGLU's input -> [M, F].

    Args:
        fused: SwiGLU as one kernel made by torch.compile, at its first use, which takes a while.
    """
    if kind == "swiglu" and fused:
        product: Tensor = compiled(swiglu)(pre)
        return product
    if kind == "swiglu":
        gate, up = halves(pre)
        return F.silu(gate).mul_(up)
    return F.gelu(pre) if kind == "gelu" else F.relu(pre)


def kept_for_backward(pre: Tensor, hidden: Tensor, kind: str) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """The least of (pre, hidden) that `activation_grad` can do with at the price of a cheap pass.

    Relu's gradient is seen from its output, and SwiGLU's output is one product of what its gradient needs anyway.
    """
    return {"relu": (None, hidden), "swiglu": (pre, None), "gelu": (pre, hidden)}[kind]


def activation_grad(
    pre: Optional[Tensor], hidden: Optional[Tensor], grad: Tensor, kind: str, fused: bool = False
) -> Tuple[Tensor, Tensor]:
    """Output of the activation and gradient of its input.

    Args:
        pre, hidden: input and output, as kept; what is missing is computed again.
        grad: [M, F] gradient of the output; overwritten.
        fused: as in `activate`.
    """
    if kind == "relu":
        if hidden is None:
            assert pre is not None
            hidden = F.relu(pre)
        return hidden, torch.ops.aten.threshold_backward.grad_input(grad, hidden, 0, grad_input=grad)
    assert pre is not None  # relu alone can do without it
    if kind == "gelu":
        hidden = F.gelu(pre) if hidden is None else hidden
        return hidden, torch.ops.aten.gelu_backward.grad_input(grad, pre, grad_input=grad)
    if fused:
        both: Tuple[Tensor, Tensor] = compiled(swiglu_grad)(pre, grad)
        return both
    gate, up = halves(pre)
    grad_pre = torch.empty_like(pre)
    grad_gate, grad_up = halves(grad_pre)
    hidden = F.silu(gate)
    torch.mul(grad, hidden, out=grad_up)
    torch.ops.aten.silu_backward.grad_input(grad.mul_(up), gate, grad_input=grad_gate)
    return hidden.mul_(up), grad_pre


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as torch.compile makes it, for every number of rows; once per process."""
    return torch.compile(function, dynamic=True)


def swiglu(pre: Tensor) -> Tensor:
    """silu(gate) * up, written for a compiler: [M, 2F] or [2, M, F] -> [M, F]."""
    gate, up = halves(pre)
    return F.silu(gate) * up


def swiglu_grad(pre: Tensor, grad: Tensor) -> Tuple[Tensor, Tensor]:
    """Output of `swiglu` [M, F] and gradient of its input, in the shape of that, from pre and grad [M, F]."""
    gate, up = halves(pre)
    share = torch.sigmoid(gate)
    silu = gate * share
    both = grad * up * (share + silu - silu * share), grad * silu
    return silu * up, torch.stack(both) if pre.dim() == 3 else torch.cat(both, 1)


class Finish(NamedTuple):
    """Dropout and norm behind the activation, each None where there is none."""

    keep: Optional[Tensor]  # [M, F] bool, False where dropped
    keep_share: float  # probability of True
    norm: Optional[str]  # "layer" or "rms"
    row_group: Optional[Tensor]  # [M] expert of each row, for the norm's parameters

    def __bool__(self) -> bool:
        return self.keep is not None or self.norm is not None

    def __call__(self, hidden: Tensor, weight: Optional[Tensor], bias: Optional[Tensor]) -> Tensor:
        """[M, F] -> [M, F]; weight and bias [N, F] of the norm."""
        if self.keep is not None:
            hidden = hidden * self.keep / self.keep_share
        if self.norm is None:
            return hidden
        assert self.row_group is not None and weight is not None
        width = hidden.shape[1:]
        if self.norm == "rms":
            hidden = F.rms_norm(hidden, width, eps=NORM_EPS)
        else:
            hidden = F.layer_norm(hidden, width, eps=NORM_EPS)
        # An embedding's backward is deterministic on CUDA, where that of indexing is not.
        hidden = hidden * F.embedding(self.row_group, weight)
        return hidden if bias is None else hidden + F.embedding(self.row_group, bias)

    def backward(self, hidden: Tensor, grad: Tensor, *parameters: Optional[Tensor]) -> Tuple[Optional[Tensor], ...]:
        """Gradients of hidden and of the norm's parameters, by running it once more; its output comes first."""
        hidden = hidden.detach().requires_grad_()
        copies = [None if t is None else t.detach().requires_grad_() for t in parameters]
        with torch.enable_grad():
            out = self(hidden, *copies)
        inputs = [hidden, *copies]
        grads = iter(torch.autograd.grad(out, [t for t in inputs if t is not None], grad))
        return out.detach(), *(None if t is None else next(grads) for t in inputs)
