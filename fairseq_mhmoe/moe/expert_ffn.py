"""All experts' feed-forward networks as one autograd Function that keeps little for the backward pass.

S source rows (sub-tokens), K rows made of each, M = S K rows sorted by expert, N experts, d width, F inner width,
C slots of an expert in the back end bmm.

Plain autograd would keep the gathered rows, the pre-activation, the gate's activation and the hidden vector. Here the
rows are gathered again and the hidden vector is formed again, which cost one cheap pass each; with `recompute` the
pre-activation too, which costs a matrix product. What is quantised (BitNet) is formed again as well, weights included.
"""

from typing import Any, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .activations import Finish, activate, activation_grad, kept_for_backward
from .bitlinear import Quantization
from .dispatch import gather_sum, rows_or_zero, token_of
from .grouped import BatchedProducts, GroupedMMProducts, LoopProducts, Products
from .precision import without_autocast


class Source(NamedTuple):
    """The copies of source rows that are the M rows; see `Plan`."""

    order: Tensor  # [M] flat use (source row * K + k) at each row
    uses: Tensor  # [S, K] row of each use


class Slots(NamedTuple):
    """Where M rows lie when every expert has C slots; -1 for a slot without row and a row without expert."""

    of_row: Tensor  # [M]
    row: Tensor  # [N * C]


class Job(NamedTuple):
    """What `run_experts` does beside its tensors."""

    products: Products
    kind: str  # relu, gelu, swiglu
    fused: bool  # see `activate`
    finish: Finish
    recompute: bool
    source: Optional[Source]  # None: the rows themselves are given
    slots: Optional[Slots]  # None: the products work on the M rows
    quantization: Quantization


class Weights(NamedTuple):
    """Stacked parameters; None for those that an expert does not have.

    All are in the rows' dtype, but matrices that are to be quantised may have any.
    """

    w_in: Tensor  # [N, F or 2F, d]
    b_in: Optional[Tensor]
    w_out: Tensor  # [N, d, F]
    b_out: Optional[Tensor]
    norm_weight: Optional[Tensor]
    norm_bias: Optional[Tensor]


def lay_out(
    backend: str,
    counts: Tensor,
    rows: int,
    complete: bool,
    sizes: Optional[List[int]] = None,
    most: Optional[int] = None,
) -> Tuple[Products, Optional[Slots]]:
    """The products of a back end for M = `rows` rows, and where it wants them.

    `loop` copies the counts to the host unless `sizes` holds them; so does `bmm`, unless it knows the most that an
    expert can have.

    Args:
        counts: [N] rows per expert, on the device.
        complete: that they add up to M.
        sizes: the counts on the host, where they are known there.
        most: upper bound of every count.
    """
    if backend == "grouped_mm":
        return GroupedMMProducts(counts, rows, complete), None
    if backend == "bmm" and sizes is None and most is not None:
        width = min(most, rows)
        slots = make_slots(counts, rows, width)
        return BatchedProducts(counts, counts.numel() * width, True), slots
    if sizes is None:
        sizes = [rows] if complete and counts.numel() == 1 else counts.tolist()
    if backend == "loop":
        return LoopProducts(counts, rows, complete, sizes), None
    full = complete and len(set(sizes)) == 1
    width = max(sizes)
    return BatchedProducts(counts, counts.numel() * width, True), None if full else make_slots(counts, rows, width)


def make_slots(counts: Tensor, rows: int, width: int) -> Slots:
    """C = `width` slots for each of N groups of M = `rows` rows, which lie sorted by group."""
    ends = counts.cumsum(0)
    starts = ends - counts
    place = torch.arange(width, device=counts.device)
    row = (starts.unsqueeze(1) + place).masked_fill(place >= counts.unsqueeze(1), -1).view(-1)
    index = torch.arange(rows, device=counts.device)
    group = torch.searchsorted(ends, index, right=True)
    inside = group.clamp(max=counts.numel() - 1)
    of_row = (inside * width + index - starts.index_select(0, inside)).masked_fill_(group >= counts.numel(), -1)
    return Slots(of_row, row)


def run_experts(x: Tensor, weights: Weights, job: Job) -> Tensor:
    """Each row through its expert: x [S, d] (or [M, d] without a source) -> [M, d], rows sorted by expert."""
    out: Tensor = _ExpertFFN.apply(x, job, *weights)
    return out


class _ExpertFFN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, job: Job, *weights: Any) -> Tensor:
        w = Weights(*weights)
        with without_autocast(x.device.type):
            pre = _first_product(_enter(x, job), w, job)
            hidden = activate(pre, job.kind, job.fused)
            finished = job.finish(hidden, w.norm_weight, w.norm_bias) if job.finish else hidden
            finished, w_out = job.quantization.rows(finished), job.quantization.matrices(w.w_out, x.dtype)
            out = _leave(job.products.linear(finished, w_out, w.b_out), job.slots)
        kept = (None, None) if job.recompute else kept_for_backward(pre, hidden, job.kind)
        ctx.save_for_backward(x, *kept, *weights)
        ctx.job = job
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, pre, hidden, *weights = ctx.saved_tensors
        job, w = ctx.job, Weights(*weights)
        products, quantization = job.products, job.quantization
        need_x, _, need_in, need_b_in, need_out, need_b_out, *_ = ctx.needs_input_grad
        grads = dict.fromkeys(("x", *Weights._fields))
        with without_autocast(grad.device.type):
            rows = _enter(x, job)
            if pre is None and hidden is None:
                pre = _first_product(rows, w, job)
            grad = _back_to_slots(grad.contiguous(), job.slots)
            grad_hidden = products.input_grad(grad, quantization.matrices(w.w_out, grad.dtype))
            finished = None
            if job.finish:
                hidden = activate(pre, job.kind, job.fused) if hidden is None else hidden
                finished, grad_hidden, grads["norm_weight"], grads["norm_bias"] = job.finish.backward(
                    hidden, grad_hidden, w.norm_weight, w.norm_bias
                )
            hidden, grad_pre = activation_grad(pre, hidden, grad_hidden, job.kind, job.fused)
            if need_out:
                finished = quantization.rows(hidden if finished is None else finished)
                grads["w_out"] = products.weight_grad(grad, finished)
            if need_b_out:
                grads["b_out"] = products.group_sum(grad)
            del hidden, finished, grad_hidden, pre
            if need_in:
                grads["w_in"] = products.weight_grad(grad_pre, rows)
            if need_b_in:
                grads["b_in"] = products.group_sum(grad_pre)
            if need_x:
                w_in = quantization.matrices(w.w_in, grad.dtype, _in_parts(job))
                grads["x"] = _enter_backward(products.input_grad(grad_pre, w_in), job)
        return grads.pop("x"), None, *grads.values()


def _first_product(rows: Tensor, w: Weights, job: Job) -> Tensor:
    """The pre-activation of what `_enter` returned."""
    w_in = job.quantization.matrices(w.w_in, rows.dtype, _in_parts(job))
    return job.products.linear(rows, w_in, w.b_in, in_halves=job.kind == "swiglu")


def _in_parts(job: Job) -> int:
    """Matrices of an expert in w_in."""
    return 2 if job.kind == "swiglu" else 1


def _enter(x: Tensor, job: Job) -> Tensor:
    """[S, d] -> the rows that the products work on."""
    x = job.quantization.rows(x)  # before they are copied
    origin = None if job.source is None else token_of(*job.source)
    if job.slots is None:
        return x if origin is None else x.index_select(0, origin)
    row = job.slots.row
    if origin is not None and origin.numel():
        row = origin.index_select(0, row.clamp(min=0)).masked_fill_(row < 0, -1)
    return rows_or_zero(x, row)


def _enter_backward(grad: Tensor, job: Job) -> Tensor:
    """The gradient of x: [S, d]."""
    if job.source is None:
        return grad if job.slots is None else rows_or_zero(grad, job.slots.of_row)
    if job.slots is None:
        return gather_sum(grad, job.source.uses)
    uses = job.slots.of_row.index_select(0, job.source.uses.view(-1)).view_as(job.source.uses)
    return gather_sum(grad, uses.clamp(min=0), (uses >= 0).to(grad.dtype))


def _leave(out: Tensor, slots: Optional[Slots]) -> Tensor:
    """What the products made -> [M, d]."""
    return out if slots is None else rows_or_zero(out, slots.of_row)


def _back_to_slots(grad: Tensor, slots: Optional[Slots]) -> Tensor:
    return grad if slots is None else rows_or_zero(grad, slots.row)
