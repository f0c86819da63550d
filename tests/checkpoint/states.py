"""Small states as fairseq's trainer saves them, with random bits (NaN included), and ways to save and compare them."""

import argparse
from collections import OrderedDict

import torch

from fairseq_mhmoe.checkpoint import REFERENCE, new_expert_folder, slice_experts, take_experts
from fairseq_mhmoe.checkpoint.writing import write_dense, write_manifest, write_shard

LAYER = "decoder.layers.1.moe_layer"
NAMES = [f"{LAYER}.experts.w_in", f"{LAYER}.experts.b_in"]
INDICES = [2, 3]
TRAINED = ["decoder.embed_tokens.weight", f"{LAYER}.router.weight", *NAMES, "decoder.layer_norm.weight"]
SECTIONS = ("optimizer", "master", "ema", "ema_fp32")


def bits(shape, dtype, generator):
    size = torch.empty(shape, dtype=dtype)
    return torch.randint(0, 256, (size.numel() * size.element_size(),), dtype=torch.uint8, generator=generator).view(
        dtype
    ).reshape(shape)  # fmt: skip


def make_state(experts=4, dtype=torch.float32, sections=SECTIONS, seed=0, updates=10):
    """A state of one process: five parameters, two of them [experts, ...], a buffer, and a tied output layer."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(5, 3), (experts, 3), (experts, 2, 3), (experts, 2), (3,)]

    def tensors(dtype):
        model = OrderedDict((name, bits(shape, dtype, generator)) for name, shape in zip(TRAINED, shapes))
        model["decoder.version"] = torch.tensor([3.0])
        model["decoder.output_projection.weight"] = model["decoder.embed_tokens.weight"]
        model._metadata = {"": {"version": 1}}
        return model

    state = {
        "args": None,
        "cfg": {
            "model": {"_name": "mhmoe_lm", "arch": "mhmoe_lm_tiny"},
            "distributed_training": {"distributed_world_size": 2},
            "optimizer": argparse.Namespace(lr=[0.1]),
        },
        "model": tensors(dtype),
        "optimizer_history": [{"num_updates": updates, "lr_scheduler_state": {"best": None}}],
        "extra_state": {"train_iterator": {"epoch": 3}, "val_loss": 1.5},
        "mhmoe_parameters": list(TRAINED),
    }
    if "optimizer" in sections:
        moments = {
            index: {
                "step": torch.tensor(7.0),
                "exp_avg": bits(shape, torch.float32, generator),
                "exp_avg_sq": bits(shape, torch.float32, generator),
            }
            for index, shape in enumerate(shapes)
        }
        state["last_optimizer_state"] = {"state": moments, "param_groups": [{"lr": 0.1, "params": list(range(5))}]}
        if "master" in sections:
            state["last_optimizer_state"]["master_weights"] = {
                index: bits(shape, torch.float32, generator) for index, shape in enumerate(shapes)
            }
    if "ema" in sections:
        state["extra_state"]["ema"] = tensors(dtype)
    if "ema_fp32" in sections:
        state["extra_state"]["ema_fp32_params"] = {
            name: bits(shape, torch.float32, generator) for name, shape in zip(TRAINED, shapes)
        }
    return state


def save(folder, state, size, name="checkpoint_last.pt"):
    """Saves as `size` ranks would, or as one process for size 1; returns the dense file."""
    path = folder / name
    if size > 1:
        state, experts = take_experts(state, NAMES, INDICES)
        place = folder / new_expert_folder(10)
        entries = [write_shard(place, rank, size, slice_experts(experts, rank, size)) for rank in range(size)]
        state[REFERENCE] = write_manifest(place, entries, {"num_updates": 10})
    write_dense(state, path)
    return path


def shards_of(path):
    """The shard files of the only expert folder beside a dense file."""
    return sorted((path.parent / "experts").glob("*/experts-*.pt"))


def same(found, expected):
    """Whether two nested states are equal bit for bit, in type, in the order of names and in attributes of dicts."""
    if isinstance(expected, torch.Tensor):
        return (
            (found.dtype, found.shape) == (expected.dtype, expected.shape)
            and found.contiguous().flatten().view(torch.uint8).tolist()
            == expected.contiguous().flatten().view(torch.uint8).tolist()
        )
    if isinstance(expected, dict):
        return (
            type(found) is type(expected)
            and list(found) == list(expected)
            and getattr(found, "__dict__", None) == getattr(expected, "__dict__", None)
            and all(same(found[key], expected[key]) for key in expected)
        )
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return type(found) is type(expected) and found == expected


def flip(path, position, mask=0xFF):
    """Changes bits of one byte of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(content)
