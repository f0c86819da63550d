"""Infinite gradients on one rank: all ranks skip the step in float16, or stop; and settings that experts can't have."""

import os
import re

import pytest
import torch
import torch.distributed as dist
from fairseq.distributed.legacy_distributed_data_parallel import LegacyDistributedDataParallel
from fairseq.trainer import Trainer

from fairseq_mhmoe.checkpoint import load_merged
from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.moe.parallel import is_expert

from .launcher import describe

SIXTEEN = dict(fp16=True, fp16_init_scale=4, lr=0.01, update_freq=2, disable_validation=True)


def spoil(wanted, value):
    """Puts one value into a gradient of rank 1, in the second update."""
    calls = []

    def all_reduce_grads(original, self):
        calls.append(self)
        if dist.get_rank() == 1 and len(calls) == 2:
            parameter = next(p for p in self.module.parameters() if is_expert(p) == wanted and p.grad is not None)
            parameter.grad.view(-1)[3] = value
        return original(self)

    def train_step(original, self, *args, **kwargs):
        before = [parameter.detach().clone() for parameter in self.model.parameters()]
        output = original(self, *args, **kwargs)
        changed = sum(not torch.equal(old, new) for old, new in zip(before, self.model.parameters()))
        what = "none" if changed == 0 else "all" if changed == len(before) else "some"
        os.write(1, f"step: rank {dist.get_rank()}: update {self.get_num_updates()}, changed {what}\n".encode())
        return output

    wrap(LegacyDistributedDataParallel, "all_reduce_grads", all_reduce_grads)
    wrap(Trainer, "train_step", train_step)


def infinite_expert():
    spoil(True, float("inf"))


def nan_expert():
    spoil(True, float("nan"))


def nan_elsewhere():
    spoil(False, float("nan"))


@pytest.mark.parametrize("before", [infinite_expert, nan_expert, nan_elsewhere])
def test_all_ranks_skip_the_step_in_float16(train_ranks, tmp_path, before):
    ended = train_ranks(tmp_path, before=before, max_update=3, **SIXTEEN)
    assert "gradient overflow detected, ignoring gradient, setting loss scale to: 2.0" in ended[0].output
    for number, rank in enumerate(ended):
        steps = re.findall(r"^step: rank (\d): update (\d), changed (\w+)$", rank.output, re.MULTILINE)
        assert [(int(r), int(update), changed == "none") for r, update, changed in steps] == [
            (number, 1, False), (number, 1, True), (number, 2, False), (number, 3, False),
        ], describe(ended)  # fmt: skip
    state = load_merged(tmp_path / "checkpoint_last.pt")
    assert all(weights.isfinite().all() for weights in state["model"].values())


@pytest.mark.parametrize("before", [nan_expert, infinite_expert])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_all_ranks_stop_in_other_precisions(train_ranks, tmp_path, before, precision):
    ended = train_ranks(
        tmp_path, before=before, check=False, max_update=4, disable_validation=True, bf16=precision == "bfloat16"
    )
    for number, rank in enumerate(ended):
        assert rank.status not in (0, None), describe(ended)
        assert f"rank {number}: fairseq-train: error: update 2: the norm of the gradients is " in rank.output
        assert re.search(r"for those of 1 of \d+ parameters, first decoder\.layers\.1\.\S+ \(rank 1\), at", rank.output)
    assert [path.name for path in tmp_path.iterdir()] == ["crash.pt"]  # for whoever looks into it


REFUSED = {
    "pytorch_ddp": (dict(ddp_backend="pytorch_ddp"), "--ddp-backend pytorch_ddp"),
    "slowmo": (dict(ddp_backend="slowmo"), "--ddp-backend slowmo"),
    "amp": (dict(amp=True), "--amp can't train experts"),
    "sharded optimizer": (dict(zero_sharding="os"), "--zero-sharding os can't train experts"),
    "bmuf": (dict(use_bmuf=True), "--use-bmuf can't train experts"),
    "adafactor": (dict(optimizer="adafactor", lr=0.01), "--optimizer adafactor computes with whole tensors"),
    "a size that does not fit": (
        dict(moe_expert_parallel_size=3),
        "--moe-expert-parallel-size: expert-parallel size 3 does not fit 4 experts on 2 processes: it must divide "
        "both; expected one of 1, 2, or leave it out for 2",
    ),
    "no slots": (dict(moe_exchange="capacity"), "capacity_factor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_can_not_train_spread_experts_are_refused(train_ranks, tmp_path, name):
    options, message = REFUSED[name]
    ended = train_ranks(tmp_path, check=False, max_update=1, **options)
    assert all(rank.status not in (0, None) for rank in ended), describe(ended)
    assert message in ended[0].output, describe(ended)
    assert not list(tmp_path.glob("*.pt"))
