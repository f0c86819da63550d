"""The figures of a checkpoint, by hand."""

import json
from argparse import Namespace

import pytest
import torch

from fairseq_mhmoe.checkpoint.summary import summary

from .states import NAMES, make_state, save, shards_of


@pytest.mark.parametrize("size", [1, 2])
def test_figures(tmp_path, size):
    path = save(tmp_path, make_state(4, torch.bfloat16), size)
    found = summary(path)
    tensors = found.pop("tensors")
    assert found == {
        "file": str(path),
        "updates": 10,
        "epoch": 3,
        "architecture": "mhmoe_lm_tiny",
        "ranks": 2,
        "expert_parallel_size": size,
        "experts_left_out": False,
        "parameters": {"dense": 5 * 3 + 4 * 3 + 3, "expert": 4 * 2 * 3 + 4 * 2},
        "bytes": {
            "dense": path.stat().st_size, "experts": sum(shard.stat().st_size for shard in shards_of(path))
        },
        "optimizer": True,
        "ema": True,
    }  # fmt: skip
    assert [tensor["name"] for tensor in tensors] == list(make_state()["model"])
    assert tensors[2] == {"name": NAMES[0], "shape": [4, 2, 3], "dtype": "bfloat16", "expert": True}
    json.dumps(found)


def test_tensors_with_two_names_count_once_where_parameters_are_not_named(tmp_path):
    state = make_state(sections=())
    del state["mhmoe_parameters"]
    found = summary(save(tmp_path, state, 1))
    assert found["parameters"]["dense"] == 5 * 3 + 4 * 3 + 3 + 1  # and the buffer
    assert (found["optimizer"], found["ema"]) == (False, False)


def test_settings_of_old_files_and_none_at_all(tmp_path):
    state = make_state()
    state["cfg"]["model"] = Namespace(arch="mhmoe_lm_small")
    assert summary(save(tmp_path, state, 1))["architecture"] == "mhmoe_lm_small"
    state["cfg"] = None
    found = summary(save(tmp_path, state, 1))
    assert (found["architecture"], found["ranks"]) == (None, None)
