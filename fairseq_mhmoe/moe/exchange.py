"""Rows travel to the ranks that hold their experts, and back.

M rows, d width, N experts of which N / P here, P ranks in the group, C slots per expert and sending rank.
"""

from typing import Any, List, Optional, Tuple

import torch
import torch.distributed as dist
from torch import Tensor

from .dispatch import Plan, invert, permute, take_rows
from .expert_ffn import Source, make_slots
from .experts import StackedExperts
from .parallel import ExpertGroup


def run_by_counts(rows: Tensor, plan: Plan, experts: StackedExperts, group: ExpertGroup, where: str) -> Tensor:
    """Send each rank as many rows as it has work for. The counts are copied to the host, once.

    Args:
        rows: [M, d] sorted by expert, those without expert last.
        plan: how many rows each of the N experts gets.
        experts: the N / P that this rank holds.
        where: name of the layer, for messages.
    Returns:
        [M, d] outputs in the order of the rows; zero for rows without expert.
    """
    arriving = torch.empty_like(plan.counts)
    _all_to_all(arriving, plan.counts, None, None, group, where)
    leaving = plan.counts.view(group.size, -1).sum(1)
    numbers = torch.cat([leaving, arriving]).tolist()
    sent, by_source = numbers[: group.size], numbers[group.size :]
    local = len(by_source) // group.size
    received = [sum(by_source[i : i + local]) for i in range(0, len(by_source), local)]
    routed = rows if sum(sent) == rows.shape[0] else rows[: sum(sent)]
    here = exchange(routed, sent, received, group, where)
    sizes = [sum(by_source[expert::local]) for expert in range(local)]
    counts = arriving.view(group.size, local).sum(0)
    if local == 1:
        here = experts(here, counts, sizes=sizes)
    else:
        order = _by_expert(arriving, local, sum(received))
        inverse = invert(order)
        here = experts(here, counts, sizes=sizes, source=Source(order, inverse.unsqueeze(1)))
        here = permute(here, inverse, order)
    back = exchange(here, received, sent, group, where)
    missing = rows.shape[0] - back.shape[0]
    return back if missing == 0 else torch.cat([back, back.new_zeros(missing, back.shape[1])])


def run_by_capacity(
    rows: Tensor, plan: Plan, capacity: int, experts: StackedExperts, group: ExpertGroup, where: str
) -> Tensor:
    """Send every expert the same number of slots, filled up with zeros; all ranks first agree on the number.

    Args:
        capacity: upper bound of every entry of plan.counts.
        rows, plan, experts, where: as in `run_by_counts`.
    """
    slots = _largest(capacity, rows.device, group, where)
    slot_of_row, row_of_slot = make_slots(plan.counts, rows.shape[0], slots)
    padded = take_rows(rows, row_of_slot, slot_of_row)
    local = plan.counts.numel() // group.size
    split = [local * slots] * group.size
    shape = (group.size, local, slots, rows.shape[1])
    here = exchange(padded, split, split, group, where).view(shape).transpose(0, 1).reshape(padded.shape)
    counts = torch.full((local,), group.size * slots, dtype=torch.int64, device=rows.device)
    here = experts(here, counts, complete=True, sizes=[group.size * slots] * local)
    here = here.view(local, group.size, slots, padded.shape[1]).transpose(0, 1).reshape(padded.shape)
    return take_rows(exchange(here, split, split, group, where), slot_of_row, row_of_slot)


def exchange(rows: Tensor, sent: List[int], received: List[int], group: ExpertGroup, where: str) -> Tensor:
    """All-to-all of rows [M, d]; the gradient travels the same way back.

    Args:
        sent: rows for each rank of the group, which lie in `rows` in this order; received: rows from each rank.
    """
    arrived: Tensor = _Exchange.apply(rows, sent, received, group, where)
    return arrived


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: List[int], received: List[int], group: ExpertGroup, where: str) -> Tensor:
        ctx.arguments = received, sent, group, where
        return _swap(rows.contiguous(), sent, received, group, where)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None, None, None]:
        return _swap(grad.contiguous(), *ctx.arguments), None, None, None, None


def _swap(rows: Tensor, sent: List[int], received: List[int], group: ExpertGroup, where: str) -> Tensor:
    out = rows.new_empty(sum(received), rows.shape[1])
    _all_to_all(out, rows, received, sent, group, where)
    group.traffic.add(rows.shape[1] * rows.element_size(), sent, group.rank)
    return out


def _all_to_all(
    out: Tensor, rows: Tensor, received: Optional[List[int]], sent: Optional[List[int]], group: ExpertGroup, where: str
) -> None:
    try:
        dist.all_to_all_single(out, rows, received, sent, group=group.group)
    except RuntimeError as error:
        raise _lost(group, where, error) from error


def _largest(number: int, device: torch.device, group: ExpertGroup, where: str) -> int:
    value = torch.tensor([number], device=device)
    try:
        dist.all_reduce(value, dist.ReduceOp.MAX, group=group.group)
    except RuntimeError as error:
        raise _lost(group, where, error) from error
    return int(value.item())


def _lost(group: ExpertGroup, where: str, error: Exception) -> RuntimeError:
    return RuntimeError(f"rank {group.world_rank}: MoE layer {where}: exchange with the other ranks failed: {error}")


def _by_expert(arriving: Tensor, local: int, rows: int) -> Tensor:
    """Order that sorts rows by expert when they came sorted by source, then expert: [P * N / P] counts -> [rows]."""
    expert = torch.arange(arriving.numel(), device=arriving.device).remainder(local)
    return torch.argsort(torch.repeat_interleave(expert, arriving, output_size=rows), stable=True)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum of a tensor over all ranks of the job; the gradient is summed likewise (each rank adds its own loss)."""
    total: Tensor = _SumOverRanks.apply(values)
    return total


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
