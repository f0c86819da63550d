"""Who holds which experts when there are several processes.

N experts, R ranks (processes), P ranks in one expert-parallel group. Ranks g * P .. g * P + P - 1 hold one copy of all
experts, N / P each; there are R / P copies. P = 1 is plain data parallelism: every rank holds all experts.
"""

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

_groups: Dict[Tuple[int, int], "ExpertGroup"] = {}
_override: List[str] = []


@dataclass
class Traffic:
    """What one rank handed to exchanges, forward and backward, since the last reset."""

    bytes: int = 0  # rows for all ranks, itself included
    remote_bytes: int = 0  # rows for other ranks
    exchanges: int = 0

    def add(self, row_bytes: int, sent: List[int], own: int) -> None:
        """Count one exchange of `sent[p]` rows of `row_bytes` bytes to each rank p of a group, `own` being this one."""
        self.bytes += row_bytes * sum(sent)
        self.remote_bytes += row_bytes * (sum(sent) - sent[own])
        self.exchanges += 1

    def reset(self) -> None:
        """Start again from zero."""
        self.bytes = self.remote_bytes = self.exchanges = 0


@dataclass(frozen=True, eq=False)
class ExpertGroup:
    """One rank's place among those that share experts; a process by itself has P = R = 1 and no process groups."""

    size: int = 1  # P
    world_size: int = 1  # R
    world_rank: int = 0
    group: Optional["dist.ProcessGroup"] = None  # the P ranks that together hold all experts
    replica_group: Optional["dist.ProcessGroup"] = None  # the R / P ranks that hold the same experts
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def rank(self) -> int:
        """Place in the group, 0 .. P - 1."""
        return self.world_rank % self.size

    @property
    def replica(self) -> int:
        """Number of the group, 0 .. R / P - 1."""
        return self.world_rank // self.size

    @property
    def replicas(self) -> int:
        """Copies of each expert, R / P."""
        return self.world_size // self.size

    def slice(self, total: int) -> Tuple[int, int]:
        """First and one past the last of `total` experts that this rank holds."""
        local = total // self.size
        return self.rank * local, (self.rank + 1) * local

    def __deepcopy__(self, memo: Dict[int, Any]) -> "ExpertGroup":
        """The same object: process groups can't be copied, and a copied model talks through the same ones."""
        return self


def sizes_that_fit(num_experts: int, world_size: int) -> List[int]:
    """Every P that divides both N and R, ascending."""
    common = math.gcd(num_experts, world_size)
    return [size for size in range(1, common + 1) if common % size == 0]


def choose_size(num_experts: int, world_size: int, requested: Optional[int] = None) -> int:
    """P: the one that was asked for, else the largest that divides both N and R.

    Raises:
        ValueError: the requested size does not divide both; names those that would.
    """
    fitting = sizes_that_fit(num_experts, world_size)
    if requested is None:
        return fitting[-1]
    if requested not in fitting:
        raise ValueError(
            f"expert-parallel size {requested} does not fit {num_experts} experts on {world_size} processes: it must "
            f"divide both; expected one of {', '.join(map(str, fitting))}, or leave it out for {fitting[-1]}"
        )
    return requested


def expert_group(num_experts: int, requested: Optional[int] = None) -> ExpertGroup:
    """This process's group for layers of N experts. Collective: all ranks call it in the same order.

    Without torch.distributed, and inside `all_experts_here`, it is the group of one process.

    Raises:
        ValueError: see `choose_size`.
    """
    if "all" in _override:
        return ExpertGroup()
    is_job = dist.is_available() and dist.is_initialized()
    world_size = dist.get_world_size() if is_job else 1
    size = choose_size(num_experts, world_size, None if "widest" in _override else requested)
    if not is_job:
        return ExpertGroup()
    key = (size, id(dist.group.WORLD))  # a test may end a job and start another
    if key not in _groups:
        _groups[key] = _new_group(size, world_size)
    return _groups[key]


def _new_group(size: int, world_size: int) -> ExpertGroup:
    rank = dist.get_rank()
    group = replica_group = None
    # Every rank takes part in making every group, in one order.
    if size > 1:
        rows = [list(range(first, first + size)) for first in range(0, world_size, size)]
        group = _mine(rows, rank)
        if size < world_size:
            replica_group = _mine([list(range(place, world_size, size)) for place in range(size)], rank)
    return ExpertGroup(size, world_size, rank, group, replica_group)


def _mine(rank_lists: List[List[int]], rank: int) -> "dist.ProcessGroup":
    made = [dist.new_group(ranks) for ranks in rank_lists]
    return next(group for group, ranks in zip(made, rank_lists) if rank in ranks and not isinstance(group, int))


@contextmanager
def all_experts_here() -> Iterator[None]:
    """Models built inside hold all experts in this process and exchange nothing."""
    yield from _overriding("all")


@contextmanager
def widest_groups() -> Iterator[None]:
    """Models built inside spread experts as far as they go, whatever size was asked for when they were trained."""
    yield from _overriding("widest")


def in_widest_groups() -> bool:
    """Whether models built now spread their experts as far as they go."""
    return "widest" in _override and "all" not in _override


def _overriding(what: str) -> Iterator[None]:
    _override.append(what)
    try:
        yield
    finally:
        _override.pop()


def layout_is_chosen() -> bool:
    """Whether models built now lay out their experts as configured, not as the contexts above have it."""
    return not _override


def is_expert(parameter: Tensor) -> bool:
    """Whether this rank holds other experts in this parameter than its neighbours do."""
    return getattr(parameter, "expert", False)


def group_of(model: nn.Module) -> ExpertGroup:
    """The group over which a model's experts are spread; that of one process when it has none.

    Raises:
        ValueError: its layers are spread differently.
    """
    groups: Iterator[Any] = (getattr(module, "group", None) for module in model.modules())
    spread = {group for group in groups if isinstance(group, ExpertGroup) and group.size > 1}
    if len(spread) > 1:
        sizes = sorted(group.size for group in spread)
        raise ValueError(f"the model's MoE layers are spread over {sizes} ranks each; expected one size for all")
    return spread.pop() if spread else ExpertGroup()


@torch.no_grad()
def average_expert_gradients(parameters: Iterable[nn.Parameter], group: ExpertGroup) -> None:
    """Make the experts' gradients the average over R ranks, as data parallelism does for all others.

    The exchange has already added up what the P ranks of a group contributed; the copies are added here. Collective.
    """
    for parameter in filter(is_expert, parameters):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad.div_(group.world_size)
        if group.replica_group is not None:
            dist.all_reduce(parameter.grad, group=group.replica_group)


@torch.no_grad()
def sum_of_squares(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Squared norm of the gradients of this rank's experts, float64 []."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [grad.norm(dtype=torch.promote_types(grad.dtype, torch.float32)).double() for grad in grads]
    return torch.stack(norms).square().sum()
