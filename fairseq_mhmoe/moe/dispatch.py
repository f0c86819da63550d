"""Which row goes to which expert, and back: one gather each way (S sub-tokens, K choices, N experts, d width).

The choices are sorted by expert; rows of one expert then lie side by side. Choices of the expert id N (pads, dropped)
sort last and lie outside every group.
"""

from typing import Any, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Plan(NamedTuple):
    """The permutation of one forward pass."""

    order: Tensor  # [S*K] flat choice (sub-token * K + k) at each sorted row
    inverse: Tensor  # [S, K] sorted row of each choice
    counts: Tensor  # [N] rows per expert
    complete: bool  # no choice lies outside the groups (known without asking the device)


def count_experts(experts: Tensor, num_experts: int) -> Tensor:
    """[...] expert ids 0..N, N meaning none -> [N] how often each occurs, int64, without a host synchronisation."""
    flat = experts.reshape(-1)
    if flat.device.type == "cpu":
        counts = torch.bincount(flat, minlength=num_experts + 1)
    else:  # bincount would ask the device for the largest value
        counts = torch.zeros(num_experts + 1, dtype=torch.int64, device=flat.device)
        counts.scatter_add_(0, flat, torch.ones_like(flat))
    return counts[:num_experts]


def make_plan(experts: Tensor, num_experts: int, complete: bool) -> Plan:
    """Sort the choices by expert, stably.

    Args:
        experts: [S, K] int64; N for a choice that no expert gets.
        num_experts: N.
        complete: that there is no such choice.
    """
    flat = experts.reshape(-1)
    keys = flat.to(torch.int16) if num_experts < torch.iinfo(torch.int16).max else flat
    order = torch.argsort(keys, stable=True)
    return Plan(order, invert(order).view_as(experts), count_experts(experts, num_experts), complete)


def dispatch(x: Tensor, plan: Plan) -> Tensor:
    """[S, d] -> [S*K, d]: each sub-token's row once for every choice, sorted by expert."""
    rows: Tensor = _Dispatch.apply(x, plan.order, plan.inverse)
    return rows


def combine(rows: Tensor, gates: Tensor, plan: Plan) -> Tensor:
    """Weighted sum of each sub-token's expert outputs (MH-MoE v1 eq. 6): [S*K, d], gates [S, K] -> [S, d]."""
    summed: Tensor = _Combine.apply(rows, gates.to(rows.dtype), plan.order, plan.inverse)
    return summed


def invert(order: Tensor) -> Tensor:
    """The permutation [M] that undoes `order`."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))


def permute(rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """[M, d] -> [M, d]: row r of the result is row order[r]; `inverse` undoes it."""
    permuted: Tensor = _Dispatch.apply(rows, order, inverse.unsqueeze(1))
    return permuted


def take_rows(rows: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """[M, d] -> [Q, d]: row q of the result is row source[q], zero for -1.

    Args:
        source: [Q] each row at most once; target: [M] its inverse, -1 for rows that are not taken.
    """
    taken: Tensor = _TakeRows.apply(rows, source, target)
    return taken


def gather_sum(rows: Tensor, inverse: Tensor, weights: Optional[Tensor] = None) -> Tensor:
    """out[s] = sum over k of weights[s, k] * rows[inverse[s, k]]: [M, d] -> [S, d]."""
    if inverse.numel() == 0 or rows.shape[0] == 0:
        return rows.new_zeros(inverse.shape[0], rows.shape[1])
    if inverse.shape[1] == 1 and (weights is None or rows.device.type != "cpu"):
        picked = rows.index_select(0, inverse.view(-1))
        return picked if weights is None else picked.mul_(weights)  # embedding_bag's kernel for CUDA reads singly
    return F.embedding_bag(inverse, rows, mode="sum", per_sample_weights=weights)


class _Dispatch(torch.autograd.Function):
    """The backward of a gather is a gather-sum here, since every sub-token knows its K rows: no index_add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, token_of(order, inverse))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gather_sum(grad.contiguous(), inverse), None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, gates: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(rows, gates, order, inverse)
        return gather_sum(rows, inverse, gates)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, Tensor, None, None]:
        rows, gates, order, inverse = ctx.saved_tensors
        by_row = grad.contiguous().index_select(0, token_of(order, inverse))
        grad_gates = torch.linalg.vecdot(by_row, rows).index_select(0, inverse.view(-1)).view_as(gates)
        return by_row.mul_(gates.reshape(-1).index_select(0, order).unsqueeze(1)), grad_gates, None, None


class _TakeRows(torch.autograd.Function):
    """A gather both ways: each row goes to one place at most."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, source: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(source, target)
        return rows_or_zero(rows, source)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None]:
        source, target = ctx.saved_tensors
        return rows_or_zero(grad.contiguous(), target), None, None


def rows_or_zero(rows: Tensor, index: Tensor) -> Tensor:
    """[M, d] -> [Q, d]: row index[q] for each q, zero for -1."""
    if rows.shape[0] == 0:
        return rows.new_zeros(index.shape[0], rows.shape[1])
    return rows.index_select(0, index.clamp(min=0)).masked_fill_((index < 0).unsqueeze(1), 0)


def token_of(order: Tensor, inverse: Tensor) -> Tensor:
    """[M] sub-token of each sorted row."""
    top_k = inverse.shape[1]
    return order if top_k == 1 else order.div(top_k, rounding_mode="floor")
