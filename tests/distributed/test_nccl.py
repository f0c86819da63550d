"""The exchange between GPUs: the same numbers as one GPU alone, in each precision that is trained in."""

import os

import pytest
import torch
import torch.distributed as dist

from fairseq_mhmoe.moe import MoEConfig, MoELayer
from fairseq_mhmoe.moe.parallel import average_expert_gradients, expert_group

from .launcher import describe, fork_ranks, torchrun_environment

PROCESSES = 2
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def layer_and_input(group=None, exchange="counts"):
    torch.manual_seed(1)
    config = MoEConfig(
        d_model=64, num_experts=4, ffn_dim=32, top_k=2, heads=2, activation="swiglu", exchange=exchange,
        capacity_factor=4.0 if exchange == "capacity" else 0.0,
    )  # fmt: skip
    return MoELayer(config, group), torch.randn(PROCESSES, 3, 16, 64)


def step_on_gpus(exchange):
    """One forward and backward pass on this rank's share; raises when it differs from one GPU's."""
    rank = int(os.environ["RANK"])
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl")
    try:
        for dtype, tolerance in TOLERANCE.items():
            layer, batches = layer_and_input(expert_group(4), exchange)
            layer = layer.to("cuda", dtype)
            y = layer(batches[rank].to("cuda", dtype))[0]
            y.float().square().sum().backward()
            average_expert_gradients(layer.parameters(), layer.group)
            expected, grad = one_gpu(exchange, dtype)
            assert (y - expected[rank]).abs().max() < tolerance * expected.abs().max()
            first, end = layer.group.slice(4)
            mine = grad[first:end] / PROCESSES
            assert (layer.experts.w_in.grad - mine).abs().max() < tolerance * mine.abs().max()
    finally:
        dist.destroy_process_group()


def one_gpu(exchange, dtype):
    layer, batches = layer_and_input(exchange=exchange)
    layer = layer.to("cuda", dtype)
    outputs = [layer(batch)[0] for batch in batches.to("cuda", dtype)]
    sum(y.float().square().sum() for y in outputs).backward()
    return torch.stack(outputs).detach(), layer.experts.w_in.grad


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < PROCESSES, reason=f"needs {PROCESSES} GPUs")
@pytest.mark.parametrize("exchange", ["counts", "capacity"])
def test_two_gpus_compute_what_one_does(exchange):
    ended = fork_ranks(
        (step_on_gpus, (exchange,)), PROCESSES, 120, lambda rank, port: torchrun_environment(rank, PROCESSES, port)
    )
    assert all(rank.status == 0 for rank in ended), describe(ended)
