"""What is in a checkpoint, in numbers; reads no tensor's values. P expert-parallel size, N experts."""

from math import prod
from pathlib import Path

from torch import Tensor

from fairseq_mhmoe.checkpoint.converting import EXPERTS, PARAMETERS
from fairseq_mhmoe.checkpoint.folder import num_updates_of
from fairseq_mhmoe.checkpoint.layout import ORDER
from fairseq_mhmoe.checkpoint.loading import load
from fairseq_mhmoe.checkpoint.manifest import checked_reference, read_manifest
from fairseq_mhmoe.checkpoint.writing import LEFT_OUT, dtype_name


def summary(path) -> dict:
    """Figures of one checkpoint as plain data.

    Returns:
        updates, epoch, architecture, ranks (processes that trained, None if unknown), expert_parallel_size P,
        experts_left_out (a crash.pt), parameters (dense and expert, elements), bytes (of the files), optimizer and ema
        (whether they are there), and tensors: name, shape over all ranks, dtype, and whether it is split by expert.
    Raises:
        DamagedCheckpoint, ForeignCheckpoint, OSError: as `load`.
    """
    state = load(path, mmap=True)
    reference = checked_reference(path, state)
    manifest = read_manifest(path, reference) if reference else None
    extra, settings = state.get("extra_state") or {}, state.get("cfg") or {}
    tensors = _model_tensors(state, manifest)
    counted = _counted(state, tensors)
    return {
        "file": str(path),
        "updates": num_updates_of(state),
        "epoch": _entry(extra, "train_iterator", "epoch"),
        "architecture": _entry(settings, "model", "arch") or _entry(settings, "model", "_name"),
        "ranks": _entry(settings, "distributed_training", "distributed_world_size"),
        "expert_parallel_size": manifest["size"] if manifest else 1,
        "experts_left_out": LEFT_OUT in state,
        "parameters": {
            "dense": sum(prod(tensor["shape"]) for tensor in counted if not tensor["expert"]),
            "expert": sum(prod(tensor["shape"]) for tensor in counted if tensor["expert"]),
        },
        "bytes": {
            "dense": Path(path).stat().st_size,
            "experts": sum(shard["bytes"] for shard in manifest["shards"]) if manifest else 0,
        },
        "optimizer": bool(state.get("last_optimizer_state")),
        "ema": "ema" in extra,
        "tensors": tensors,
    }


def _model_tensors(state: dict, manifest: dict | None) -> list[dict]:
    tensors = [
        {"name": name, "shape": list(value.shape), "dtype": dtype_name(value), "expert": bool(EXPERTS.search(name))}
        for name, value in state["model"].items()
        if isinstance(value, Tensor)
    ]
    sharded = manifest["parameters"].get("model", {}) if manifest else {}
    tensors += [{"name": name, **described, "expert": True} for name, described in sharded.items()]
    order = {name: place for place, name in enumerate(state.get(ORDER, ()))}
    return sorted(tensors, key=lambda tensor: order.get(tensor["name"], len(order)))


def _counted(state: dict, tensors: list[dict]) -> list[dict]:
    """Trained parameters where the file names them; otherwise every tensor of numbers, one that has two names once."""
    names = state.get(PARAMETERS)
    if names:
        return [tensor for tensor in tensors if tensor["name"] in set(names)]
    seen, counted = set(), []
    for tensor in tensors:
        value = state["model"].get(tensor["name"])
        place = tensor["name"] if value is None else (value.data_ptr(), value.shape)
        if place not in seen and (value is None or value.is_floating_point()):
            seen.add(place)
            counted.append(tensor)
    return counted


def _entry(settings, *keys):
    """A nested entry of dictionaries or Namespaces, None where there is none."""
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else getattr(settings, key, None)
    return settings
