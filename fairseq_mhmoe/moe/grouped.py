"""Matrix products over groups of rows, one weight a group (M rows, N groups, `in` and `out` widths, C slots a group).

Three back ends compute the same four products. Rows behind the last group belong to nobody: products leave them zero.

SwiGLU's two projections are one weight, and their results are used half by half. A product may return them side by
side, [M, 2 width], or one after the other, [2, M, width], as `halves` knows; a gradient comes back in the same shape.
"""

from abc import ABC, abstractmethod
from typing import Callable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .backends import leaves_empty_groups_unwritten, torch_grouped_mm

# From this many rows a group a loop on the CPU keeps the halves apart: elementwise passes over contiguous memory take
# half the time, and that is more than what a second product per group costs.
_ROWS_FOR_SEPARATE_HALVES = 128


def halves(both: Tensor) -> Tuple[Tensor, ...]:
    """[M, 2 width] or [2, M, width] -> two tensors [M, width]."""
    return both.unbind(0) if both.dim() == 3 else both.chunk(2, 1)


class Products(ABC):
    """Products of M rows that lie sorted by group. Without autograd: `expert_ffn` puts them together.

    Args:
        counts: [N] rows of each group, on the device.
        rows: M.
        complete: that the counts add up to M.
    """

    def __init__(self, counts: Tensor, rows: int, complete: bool) -> None:
        self.counts, self.rows, self.complete = counts, rows, complete

    @abstractmethod
    def linear(self, x: Tensor, weight: Tensor, bias: Optional[Tensor], in_halves: bool = False) -> Tensor:
        """y[r] = x[r] W_g^T + b_g for each row r of group g: [M, in], [N, out, in], [N, out] or None -> [M, out].

        Args:
            in_halves: the result may be [2, M, out / 2] instead.
        """

    @abstractmethod
    def input_grad(self, grad: Tensor, weight: Tensor) -> Tensor:
        """Gradient of x: [M, out], [N, out, in] -> [M, in]."""

    @abstractmethod
    def weight_grad(self, grad: Tensor, x: Tensor) -> Tensor:
        """Gradient of the weight: [M, out], [M, in] -> [N, out, in]."""

    @abstractmethod
    def group_sum(self, rows: Tensor) -> Tensor:
        """Sum over each group's rows, the gradient of what they share: [M, width] -> [N, width]; zero behind groups."""

    def row_group(self) -> Tensor:
        """[M] group of each row; the last one for rows behind it."""
        ends = self.counts.cumsum(0)
        rows = torch.arange(self.rows, device=ends.device)
        return torch.searchsorted(ends, rows, right=True).clamp_(max=ends.numel() - 1)


class LoopProducts(Products):
    """One matrix product per group into slices of one buffer: every device and dtype.

    Args:
        sizes: the counts on the host.
    """

    def __init__(self, counts: Tensor, rows: int, complete: bool, sizes: List[int]) -> None:
        super().__init__(counts, rows, complete)
        self.end = sum(sizes)
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + size)
        self.filled = [(group, slice(starts[group], starts[group + 1])) for group, size in enumerate(sizes) if size]
        self.empty = [group for group, size in enumerate(sizes) if not size]

    def linear(self, x: Tensor, weight: Tensor, bias: Optional[Tensor], in_halves: bool = False) -> Tensor:
        parts = 2 if in_halves and x.device.type == "cpu" and self._rows_per_group >= _ROWS_FOR_SEPARATE_HALVES else 1
        width = weight.shape[1] // parts
        y = x.new_empty(parts, x.shape[0], width)
        for part, out in enumerate(y):
            columns = slice(part * width, (part + 1) * width)
            weights = weight[:, columns].unbind(0)
            for group, rows in self.filled:
                if bias is None:
                    torch.mm(x[rows], weights[group].t(), out=out[rows])
                else:
                    torch.addmm(bias[group, columns], x[rows], weights[group].t(), out=out[rows])
            self._zero_tail(out)
        return y if parts == 2 else y[0]

    def input_grad(self, grad: Tensor, weight: Tensor) -> Tensor:
        parts = grad.unbind(0) if grad.dim() == 3 else (grad,)
        grad_x = grad.new_empty(grad.shape[-2], weight.shape[2])
        for part, part_weight in zip(parts, weight.chunk(len(parts), 1)):
            weights = part_weight.unbind(0)
            for group, rows in self.filled:
                if part is parts[0]:
                    torch.mm(part[rows], weights[group], out=grad_x[rows])
                else:
                    grad_x[rows].addmm_(part[rows], weights[group])
        return self._zero_tail(grad_x)

    def weight_grad(self, grad: Tensor, x: Tensor) -> Tensor:
        return self._by_part(grad, x.shape[1:], lambda part, rows, out: torch.mm(part[rows].t(), x[rows], out=out))

    def group_sum(self, rows: Tensor) -> Tensor:
        return self._by_part(rows, (), lambda part, chosen, out: torch.sum(part[chosen], 0, out=out))

    @property
    def _rows_per_group(self) -> float:
        return self.end / max(len(self.filled), 1)

    def _by_part(
        self, grad: Tensor, shape: Sequence[int], compute: Callable[[Tensor, slice, Tensor], Tensor]
    ) -> Tensor:
        """[N, out, *shape], one slice a group and half; those without rows are zero, and nothing is written twice."""
        parts = grad.unbind(0) if grad.dim() == 3 else (grad,)
        result = grad.new_empty(self.counts.numel(), len(parts) * grad.shape[-1], *shape)
        for part, part_result in zip(parts, result.chunk(len(parts), 1)):
            slices = part_result.unbind(0)
            for group in self.empty:
                slices[group].zero_()
            for group, rows in self.filled:
                compute(part, rows, slices[group])
        return result

    def _zero_tail(self, rows: Tensor) -> Tensor:
        rows[self.end :].zero_()
        return rows


class GroupedMMProducts(Products):
    """torch's grouped_mm, which leaves rows behind the last group unwritten: they are zeroed when there may be any."""

    def __init__(self, counts: Tensor, rows: int, complete: bool) -> None:
        super().__init__(counts, rows, complete)
        self.ends = counts.cumsum(0).to(torch.int32)

    def linear(self, x: Tensor, weight: Tensor, bias: Optional[Tensor], in_halves: bool = False) -> Tensor:
        y = torch_grouped_mm(x, weight.transpose(1, 2), offs=self.ends)
        if bias is not None:
            y.add_(bias.index_select(0, self.row_group()))
        return self._zero_tail(y)

    def input_grad(self, grad: Tensor, weight: Tensor) -> Tensor:
        return self._zero_tail(torch_grouped_mm(grad, weight, offs=self.ends))

    def weight_grad(self, grad: Tensor, x: Tensor) -> Tensor:
        result: Tensor = torch_grouped_mm(grad.t(), x, offs=self.ends)
        if leaves_empty_groups_unwritten(x.device.type, x.device.index):
            result.masked_fill_((self.counts == 0).view(-1, 1, 1), 0)
        return result

    def group_sum(self, rows: Tensor) -> Tensor:
        # An embedding's gradient is the same sum, and deterministic on CUDA, where index_add is not.
        summed: Tensor = torch.ops.aten.embedding_dense_backward(
            self._zero_tail(rows), self.row_group(), self.counts.numel(), -1, False
        )
        return summed

    def _zero_tail(self, rows: Tensor) -> Tensor:
        if self.complete:
            return rows
        behind = torch.arange(rows.shape[0], device=rows.device) >= self.ends[-1]
        return rows.masked_fill_(behind.unsqueeze(1), 0)


class BatchedProducts(Products):
    """Batched products of groups that have C rows each, filled up with rows of zeros (`Slots`)."""

    def linear(self, x: Tensor, weight: Tensor, bias: Optional[Tensor], in_halves: bool = False) -> Tensor:
        x, transposed = self._batched(x), weight.transpose(1, 2)
        y = torch.bmm(x, transposed) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, transposed)
        return y.flatten(0, 1)

    def input_grad(self, grad: Tensor, weight: Tensor) -> Tensor:
        return torch.bmm(self._batched(grad), weight).flatten(0, 1)

    def weight_grad(self, grad: Tensor, x: Tensor) -> Tensor:
        return torch.bmm(self._batched(grad).transpose(1, 2), self._batched(x))

    def group_sum(self, rows: Tensor) -> Tensor:
        return self._batched(rows).sum(1)

    def row_group(self) -> Tensor:
        groups = self.counts.numel()
        return torch.arange(groups, device=self.counts.device).repeat_interleave(
            self.rows // groups, output_size=self.rows
        )

    def _batched(self, rows: Tensor) -> Tensor:
        groups = self.counts.numel()
        return rows.view(groups, self.rows // groups, rows.shape[1])
