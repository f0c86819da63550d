"""Matrix products over groups of rows, one weight a group (M rows, N groups, `in` and `out` widths).

Rows behind the last group belong to nobody: they come out zero, and so do their gradients.
"""

import logging
from functools import cache
from typing import List, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)

_torch_grouped_mm = getattr(F, "grouped_mm", None)
_ALIGNMENT = 16  # bytes: torch's grouped_mm takes only such strides


class Groups(NamedTuple):
    """How M rows, sorted by group, fall into N groups."""

    counts: Tensor  # [N] rows per group, on the device
    rows: int  # M
    complete: bool  # no row lies behind the last group
    backend: str  # "loop" or "grouped_mm"
    sizes: Optional[List[int]]  # the counts on the host, for the loop
    ends: Optional[Tensor]  # [N] int32 end of each group, for grouped_mm

    def row_group(self) -> Tensor:
        """[M] group of each row; the last one for rows behind it."""
        ends = self.counts.cumsum(0)
        rows = torch.arange(self.rows, device=ends.device)
        return torch.searchsorted(ends, rows, right=True).clamp_(max=ends.numel() - 1)


def make_groups(
    counts: Tensor, rows: int, complete: bool, backend: str, sizes: Optional[List[int]] = None
) -> Groups:
    """Prepare what the back end needs; the loop copies the counts to the host, once, unless `sizes` holds them."""
    if backend == "loop":
        if sizes is None:
            sizes = [rows] if complete and counts.numel() == 1 else counts.tolist()
        return Groups(counts, rows, complete, backend, sizes, None)
    return Groups(counts, rows, complete, backend, None, counts.cumsum(0).to(torch.int32))


def choose_backend(requested: str, x: Tensor, widths: List[int]) -> str:
    """The back end for rows like x and matrices of these widths.

    "auto" takes torch's grouped_mm where it is fast: on the CPU and for bfloat16 on compute capability 9 and above.
    Elsewhere (V100, A100, float64, float16 on a CPU) a loop over the experts is faster or the only way.

    Raises:
        ValueError: grouped_mm was asked for and can't take these rows.
    """
    if requested == "loop" or x.shape[0] == 0:
        return "loop"
    reason = _grouped_mm_refuses(x.dtype, tuple(widths))
    if requested == "grouped_mm":
        if reason:
            raise ValueError(f"expert back end grouped_mm: {reason}; expected backend 'loop' or 'auto' here")
        return requested
    device = x.device
    chosen = "loop" if reason or not _grouped_mm_is_fast(device.type, device.index, x.dtype) else "grouped_mm"
    _log_choice(chosen, device.type, str(x.dtype), reason or "")
    return chosen


def _grouped_mm_refuses(dtype: torch.dtype, widths) -> str:
    if _torch_grouped_mm is None:
        return "this torch has no grouped_mm"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it does not take {dtype}"
    odd = [w for w in widths if w * dtype.itemsize % _ALIGNMENT]
    return f"widths {odd} are no multiples of {_ALIGNMENT} bytes" if odd else ""


@cache
def _grouped_mm_is_fast(device_type: str, index: Optional[int], dtype: torch.dtype) -> bool:
    if device_type in ("cpu", "meta"):
        return dtype != torch.float16
    if device_type == "cuda":
        return dtype == torch.bfloat16 and torch.cuda.get_device_capability(index)[0] >= 9
    return False


@cache
def _log_choice(chosen: str, device_type: str, dtype: str, reason: str) -> None:
    why = f" ({reason})" if reason else ""
    logger.info("expert matrix products: back end %s for %s on %s%s", chosen, dtype, device_type, why)


def grouped_linear(x: Tensor, weight: Tensor, groups: Groups) -> Tensor:
    """y[r] = x[r] W_g^T for each row r of group g.

    Args:
        x: [M, in] rows sorted by group.
        weight: [N, out, in].
        groups: from `make_groups`.
    Returns:
        [M, out]
    """
    if groups.backend == "loop":
        return _LoopLinear.apply(x, weight, groups.sizes)
    return _GroupedLinear.apply(x, weight, groups.ends, groups.complete)


def expand(table: Tensor, row_group: Tensor) -> Tensor:
    """[N, width] -> [M, width]: each row gets its group's vector (its backward is deterministic on CUDA too)."""
    return F.embedding(row_group, table)


class _LoopLinear(torch.autograd.Function):
    """One matrix product per group into slices of one buffer: every device and dtype."""

    @staticmethod
    def forward(ctx, x, weight, sizes):
        ctx.save_for_backward(x, weight)
        ctx.sizes = sizes
        y = x.new_empty(x.shape[0], weight.shape[1])
        for _, start, size, w in _filled_groups(sizes, weight):
            torch.mm(x[start : start + size], w.t(), out=y[start : start + size])
        return _zero_tail(y, sizes)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        need_x, need_weight, _ = ctx.needs_input_grad
        grad_x = torch.empty_like(x) if need_x else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        for group, start, size, w in _filled_groups(ctx.sizes, weight):
            g = grad[start : start + size]
            if need_x:
                torch.mm(g, w, out=grad_x[start : start + size])
            if need_weight:
                torch.mm(g.t(), x[start : start + size], out=grad_weight[group])
        if need_x:
            _zero_tail(grad_x, ctx.sizes)
        return grad_x, grad_weight, None


def _filled_groups(sizes: List[int], weight: Tensor):
    """(group, first row, rows, its weight [out, in]) of every group that has rows."""
    start = 0
    for group, (size, w) in enumerate(zip(sizes, weight.unbind(0))):
        if size:
            yield group, start, size, w
        start += size


def _zero_tail(rows: Tensor, sizes: List[int]) -> Tensor:
    rows[sum(sizes) :].zero_()
    return rows


class _GroupedLinear(torch.autograd.Function):
    """torch's grouped_mm; what it leaves unwritten behind the last group is zeroed when there may be any."""

    @staticmethod
    def forward(ctx, x, weight, ends, complete):
        ctx.save_for_backward(x, weight, ends)
        ctx.complete = complete
        return _masked(_torch_grouped_mm(x, weight.transpose(1, 2), offs=ends), ends, complete)

    @staticmethod
    def backward(ctx, grad):
        x, weight, ends = ctx.saved_tensors
        grad = grad.contiguous()
        need_x, need_weight = ctx.needs_input_grad[:2]
        grad_x = _masked(_torch_grouped_mm(grad, weight, offs=ends), ends, ctx.complete) if need_x else None
        grad_weight = _torch_grouped_mm(grad.t(), x, offs=ends) if need_weight else None
        return grad_x, grad_weight, None, None


def _masked(rows: Tensor, ends: Tensor, complete: bool) -> Tensor:
    if complete:
        return rows
    behind = torch.arange(rows.shape[0], device=rows.device) >= ends[-1]
    return rows.masked_fill_(behind.unsqueeze(1), 0)
