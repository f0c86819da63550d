"""Where the experts are in the dictionary that fairseq's trainer saves, and how they come out of it and back.

P expert-parallel size, N experts. Expert tensors are [N, ...] or, on one of P ranks, [N/P, ...].
`Experts` holds them by section and key:

    model      parameter name                 weights
    optimizer  "<index>.<state key>"          moments of the parameter with this index in the optimizer
    master     "<index>"                      float32 weights of training in half precision
    ema        parameter name                 average of the weights
    ema_fp32   parameter name                 the same in float32
"""

import copy
from typing import Dict

from torch import Tensor

Experts = Dict[str, Dict[str, Tensor]]

PLACES = {
    "model": ("model",),
    "optimizer": ("last_optimizer_state", "state"),
    "master": ("last_optimizer_state", "master_weights"),
    "ema": ("extra_state", "ema"),
    "ema_fp32": ("extra_state", "ema_fp32_params"),
}
BY_NAME = ("model", "ema", "ema_fp32")
# the names of state["model"] in order, kept while the experts are elsewhere
ORDER = "mhmoe_model_order"


def take_experts(state: dict, names, indices) -> tuple[dict, Experts]:
    """Parts a saved state into the state without its experts and the experts.

    Args:
        state: what Trainer.state_dict returns, on the CPU; it is not changed. Sections may be absent.
        names: names of expert parameters.
        indices: their indices in the optimizer, int.
    Returns:
        a state that shares its tensors with `state`, and the experts. Optimizer entries without a dimension (Adam's
        "step") stay in the state.
    Raises:
        ValueError: a name is not in the model, or an optimizer entry has no dimension of experts to be split by.
    """
    names, indices = list(names), list(indices)
    missing = [name for name in names if name not in state["model"]]
    if missing:
        raise ValueError(f"{missing[0]} is not in the model of this checkpoint: it was saved by another architecture")
    experts: Experts = {}
    rest = {**state, ORDER: list(state["model"])}
    for section, place in PLACES.items():
        entries = _at(state, place)
        if entries is None:
            continue
        kept, taken = copy.copy(entries), {}
        if section == "optimizer":
            for index in (index for index in indices if index in entries):
                moments = {key: value for key, value in entries[index].items() if _has_rows(value)}
                kept[index] = {key: value for key, value in entries[index].items() if key not in moments}
                taken.update({f"{index}.{key}": value for key, value in moments.items()})
        elif section == "master":
            taken = {str(index): kept.pop(index) for index in indices if index in entries}
        else:
            taken = {name: kept.pop(name) for name in names if name in entries}
        _replace(rest, place, kept)
        if taken:
            experts[section] = taken
    _check_rows(experts)
    return rest, experts


def put_experts(state: dict, experts: Experts) -> dict:
    """The inverse of take_experts: a new state with the experts in it, their tensors shared.

    Raises:
        ValueError: the state lacks a section that the experts have.
    """
    order = state.get(ORDER, ())
    whole = {key: value for key, value in state.items() if key != ORDER}
    for section, tensors in experts.items():
        place = PLACES[section]
        entries = _at(state, place)
        if entries is None:
            raise ValueError(f"the dense part has no {'.'.join(place)}, but there are experts for it")
        entries = copy.copy(entries)
        for key, tensor in tensors.items():
            if section == "optimizer":
                index, _, moment = key.partition(".")
                entries[int(index)] = {**entries.get(int(index), {}), moment: tensor}
            else:
                entries[int(key) if section == "master" else key] = tensor
        _sort(entries, order if section in BY_NAME else sorted(entries))
        _replace(whole, place, entries)
    return whole


def slice_experts(experts: Experts, rank: int, size: int) -> Experts:
    """Rows of one rank of P = size: views [N/P, ...] of tensors [N, ...].

    Raises:
        ValueError: P does not divide the number of experts.
    """
    return {
        section: {key: tensor[slice(*rows(key, tensor.shape[0], rank, size))] for key, tensor in tensors.items()}
        for section, tensors in experts.items()
    }


def rows(key: str, total: int, rank: int, size: int) -> tuple[int, int]:
    """First and last + 1 of `total` rows that one rank of P = size holds.

    Raises:
        ValueError: P does not divide total.
    """
    if total % size:
        fits = [number for number in range(1, total + 1) if total % number == 0]
        raise ValueError(f"the {total} experts of {key} can't be split over {size} ranks; {fits} would fit")
    return total * rank // size, total * (rank + 1) // size


def _at(state, place):
    """The dictionary at a place, None where there is none."""
    for key in place:
        state = state.get(key) if isinstance(state, dict) else None
    return state if isinstance(state, dict) else None


def _replace(state: dict, place, value) -> None:
    """Sets state at a place; dictionaries on the way are copied first, `state` itself is not."""
    for key in place[:-1]:
        state[key] = copy.copy(state[key])
        state = state[key]
    state[place[-1]] = value


def _sort(entries: dict, order) -> None:
    """Brings the keys of a dictionary into an order, in place (an OrderedDict keeps its attributes)."""
    for name in [name for name in order if name in entries]:
        entries[name] = entries.pop(name)


def _has_rows(value) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _check_rows(experts: Experts) -> None:
    """ValueError if a tensor's dimension 0 can't be the experts (an optimizer that factors its moments)."""
    numbers = {tensor.shape[0] for tensor in experts.get("model", {}).values()}
    for section, tensors in experts.items():
        for key, tensor in tensors.items():
            if numbers and tensor.shape[0] not in numbers:
                raise ValueError(
                    f"entry {key} of {section} has shape {tuple(tensor.shape)}, which is not split by expert "
                    f"({sorted(numbers)} experts here): this optimizer can't be combined with expert parallelism"
                )
