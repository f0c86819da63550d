"""Compat mode "torchscale" against torchscale 0.3.0's own X-MoE layer, over its settings (B, T, D, N, F)."""

import itertools
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torchscale.component.feedforward_network import make_experts
from torchscale.component.xmoe import routing
from torchscale.component.xmoe.moe_layer import MOELayer

from fairseq_mhmoe.moe import MoEConfig, MoELayer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))
from layers import copy_layer, matched

D, N, F, B, T = 16, 6, 12, 3, 7
KINDS = [(1, "all", False), *itertools.product([2], ["all", "random", "sampling"], [False, True])]
BOOLS = [False, True]


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """torchscale's layer asks for a process group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def build_both(top_k, policy, normalize, prioritized, cosine, subln, fraction, capacity):
    """torchscale's layer and ours, with the same weights."""
    args = Namespace(
        moe_expert_count=N, ddp_rank=0, activation_fn="gelu", dropout=0.0, activation_dropout=0.0, layernorm_eps=1e-5,
        subln=subln,
    )
    shared = dict(moe_eval_capacity_token_fraction=fraction, use_xmoe=cosine, use_fp32=True)
    if top_k == 1:
        gate = routing.Top1Gate(D, N, capacity_factor=capacity, **shared)
    else:
        gate = routing.Top2Gate(
            D, N, second_expert_policy=policy, normalize_gate_prob_before_dropping=normalize,
            batch_prioritized_routing=prioritized, **shared,
        )
    theirs = MOELayer(gate, make_experts(args, D, F), args)
    fields = dict(
        d_model=D, num_experts=N, ffn_dim=F, top_k=top_k, subln=subln, router="xmoe" if cosine else "softmax",
        normalize_gates="before" if normalize else "none", second_policy=policy, eval_capacity_fraction=fraction,
        batch_prioritized=prioritized,
    )
    if top_k == 1:
        fields["capacity_factor"] = capacity
    ours = MoELayer(MoEConfig.with_compat("torchscale", **fields))
    copy_layer(ours, {name: p.detach() for name, p in theirs.named_parameters()})
    return theirs, ours


def same_noise(monkeypatch, policy):
    """The random numbers of the second-expert policy for both layers."""
    if policy == "sampling":
        noise = -torch.empty(B * T, N).exponential_().log()
        monkeypatch.setattr(routing, "gumbel_rsample", lambda shape, device: noise)
        return noise
    if policy == "random":
        noise = torch.rand(B * T)
        monkeypatch.setattr(torch, "rand_like", lambda like: noise)
        return noise.unsqueeze(1)
    return None


@pytest.mark.parametrize("top_k, policy, normalize", KINDS)
@pytest.mark.parametrize("cosine", BOOLS)
def test_same_output_loss_and_gradients(monkeypatch, top_k, policy, normalize, cosine):
    histogram = torch.histc  # only feeds their logging, and takes no integers
    monkeypatch.setattr(torch, "histc", lambda x, **bins: histogram(x.float(), **bins))
    torch.manual_seed(top_k)
    settings = itertools.product(BOOLS if top_k == 2 else [False], BOOLS, [0.25, -1.0], BOOLS, BOOLS)
    for prioritized, subln, fraction, padded, training in settings:
        capacity = 2.0 if subln else 1.0
        theirs, ours = build_both(top_k, policy, normalize, prioritized, cosine, subln, fraction, capacity)
        theirs.train(training)
        ours.train(training)
        pads = torch.zeros(B, T, dtype=torch.bool)
        if padded:
            pads[0, 5:] = pads[2, 1:] = True
        mask = pads if padded else None
        x, weight = torch.randn(B, T, D), torch.randn(B, T, D)
        noise = same_noise(monkeypatch, policy)
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [theirs(leaves[0], input_padding_mask=mask), ours(leaves[1], mask, noise)[:2]]
        for y, l_aux in outputs:
            ((y * weight).sum() + 0.01 * l_aux).backward()
        results = [(*output, leaf.grad) for output, leaf in zip(outputs, leaves)]
        name = f"prioritized={prioritized} subln={subln} fraction={fraction} padded={padded} training={training}"
        for expected, got in zip(*results):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5, msg=name)
        gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in theirs.named_parameters()}
        for got, expected in matched(ours, gradients, gradient=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4, msg=name)
