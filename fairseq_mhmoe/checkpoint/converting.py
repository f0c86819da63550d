"""From one file to the sharded form and back, without building the model. P expert-parallel size, N experts.

A single file does not say which optimizer entries belong to experts. It does if it was saved with this package (the
names of the trained parameters in the optimizer's order); otherwise the entries are laid along the model's tensors by
their shapes, and where that can be done in more than one way the file is refused.
"""

import re
import shutil
from pathlib import Path

from torch import Tensor

from fairseq_mhmoe.checkpoint.folder import new_expert_folder, num_updates_of, remove_unnamed_experts
from fairseq_mhmoe.checkpoint.layout import PLACES, slice_experts, take_experts
from fairseq_mhmoe.checkpoint.loading import load
from fairseq_mhmoe.checkpoint.manifest import checked_reference
from fairseq_mhmoe.checkpoint.reading import check_has_experts, load_merged, read_experts, reference_of, verify
from fairseq_mhmoe.checkpoint.writing import REFERENCE, write_dense, write_manifest, write_shard

PARAMETERS = "mhmoe_parameters"  # names of the trained parameters in the optimizer's order
EXPERTS = re.compile(r"\.moe_layer(\.[AB])?\.experts\.")  # in the names of stacked tensors [N, ...]


def merge(source, target) -> None:
    """Writes a checkpoint of any P as one ordinary file; the source is verified first.

    Raises:
        DamagedCheckpoint, ForeignCheckpoint, OSError: as `verify`.
        ValueError: the source holds no experts.
    """
    former = _reference_or_none(target)
    write_dense(load_merged(source), target)
    _remove_former(target, former)


def split(source, target, size: int) -> None:
    """Writes a checkpoint of any P in the form of P = size ranks; the source is verified first.

    Only one rank's share of the experts is in memory at a time.

    Raises:
        DamagedCheckpoint, ForeignCheckpoint, OSError: as `verify`.
        ValueError: size does not divide the number of experts; no experts; optimizer entries that can't be assigned.
    """
    if size < 2:
        raise ValueError(f"size {size}: at least 2; one file for one rank is made by merging")
    verify(source)
    state = load(source, mmap=True)
    check_has_experts(source, state)
    reference = checked_reference(source, state)
    if reference is None:
        names = expert_names(state)
        if not names:
            raise ValueError(f"{source} has no experts: no tensor of its model is named *.moe_layer.experts.*")
        state, experts = take_experts(state, names, expert_indices(state, names))

    former = _reference_or_none(target)
    target = Path(target)
    folder = target.parent / new_expert_folder(max(num_updates_of(state), 0))
    try:
        entries = []
        for rank in range(size):
            if reference is None:
                share = slice_experts(experts, rank, size)
            else:
                share = read_experts(source, reference, rank, size)
            entries.append(write_shard(folder, rank, size, share))
        written = write_manifest(folder, entries, {"num_updates": num_updates_of(state)})
        write_dense({**state, REFERENCE: written}, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _remove_former(target, former)


def expert_names(state: dict) -> list[str]:
    """Names of the stacked expert tensors in the model of a single file."""
    return [name for name in state["model"] if EXPERTS.search(name)]


def expert_indices(state: dict, names) -> list[int]:
    """The optimizer's indices of the named parameters, in the order of the names.

    Returns:
        [] if the optimizer keeps nothing about its parameters.
    Raises:
        ValueError: they can't be told for sure.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state["model"].items() if isinstance(tensor, Tensor)}
    entries = _optimizer_shapes(state)
    if not any(entries.values()):
        return []
    order = state.get(PARAMETERS) or _order_by_shapes(shapes, entries, names)
    if len(order) != len(entries):
        raise ValueError(f"the optimizer has entries for {len(entries)} parameters, the file names {len(order)}")
    for kept, name in zip(entries.values(), order):
        if name in shapes and not _fits(kept, shapes[name]):
            raise ValueError(f"the optimizer keeps shapes {kept} for {name}, which has shape {shapes[name]}")
    missing = [name for name in names if name not in order]
    if missing:
        raise ValueError(f"{missing[0]} is not among the parameters that the optimizer trains")
    return [order.index(name) for name in names]


def _optimizer_shapes(state: dict) -> dict:
    """Optimizer index -> shapes of what is kept for that parameter, scalars left out."""
    optimizer = state.get("last_optimizer_state") or {}
    count = sum(len(group["params"]) for group in optimizer.get("param_groups", []))
    entries = {index: [] for index in range(count)}
    for index, kept in optimizer.get(PLACES["optimizer"][-1], {}).items():
        tensors = kept.values() if isinstance(kept, dict) else ()
        entries[index] = [tuple(value.shape) for value in tensors if isinstance(value, Tensor) and value.dim()]
    for index, weights in (optimizer.get(PLACES["master"][-1]) or {}).items():
        entries[index] = [*entries.get(index, []), tuple(weights.shape)]
    return dict(sorted(entries.items()))


def _order_by_shapes(shapes: dict, entries: dict, names) -> list:
    """Lays the optimizer's entries along the model's tensors, which have the same order with gaps (buffers, ties).

    Returns:
        a name for each index. Those of `names` are the only ones possible; others may be one choice of several.
    """
    tensors, needed = list(shapes), list(entries.values())
    first = _lay(needed, [shapes[name] for name in tensors])
    last = _lay(needed[::-1], [shapes[name] for name in tensors[::-1]])
    if first is None or last is None:
        raise ValueError(
            "the optimizer's entries do not follow the model's tensors (flat gradients, or another architecture); "
            "they can't be split without the model: load the file in a run with several processes and save it there"
        )
    last = [len(tensors) - 1 - position for position in last[::-1]]
    sure = {tensors[early] for early, late in zip(first, last) if early == late}
    unsure = [name for name in names if name not in sure]
    if unsure:
        raise ValueError(
            f"which entry of the optimizer belongs to {unsure[0]} can't be told for sure from the shapes alone; "
            "load the file in a run with several processes and save it there"
        )
    return [tensors[position] for position in first]


def _lay(needed, shapes) -> list | None:
    """Positions in shapes, ascending, each as early as possible, that fit what is needed; None if there are none."""
    positions, start = [], 0
    for kept in needed:
        start = next((place for place in range(start, len(shapes)) if _fits(kept, shapes[place])), None)
        if start is None:
            return None
        positions.append(start)
        start += 1
    return positions


def _fits(kept, shape) -> bool:
    """Whether moments of these shapes may belong to a tensor: its shape, or without one of its last two (Adafactor)."""
    return all(found in (shape, shape[:-1], (*shape[:-2], *shape[-1:])) for found in kept)


def _reference_or_none(path):
    """The reference of a file that is about to be replaced, None where there is none to be had."""
    try:
        return reference_of(path)
    except (OSError, ValueError):
        return None


def _remove_former(target, former) -> None:
    if former is not None:
        remove_unnamed_experts(Path(target).parent, former["folder"])
