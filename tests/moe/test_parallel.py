"""Which rank holds which experts, without any other process (N experts, R ranks, P ranks that share one copy)."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fairseq_mhmoe.moe import MoEConfig, MoELayer
from fairseq_mhmoe.moe.parallel import (
    ExpertGroup,
    Traffic,
    all_experts_here,
    average_expert_gradients,
    choose_size,
    expert_group,
    group_of,
    is_expert,
    sizes_that_fit,
    sum_of_squares,
    widest_groups,
)

CONFIG = MoEConfig(d_model=8, num_experts=4, ffn_dim=6, heads=2, subln=True)


def layer_of(rank, size, config=CONFIG, seed=0):
    torch.manual_seed(seed)
    return MoELayer(config, ExpertGroup(size=size, world_size=size, world_rank=rank))


@given(st.integers(1, 40), st.integers(1, 40))
def test_sizes_that_fit_divide_both_numbers(num_experts, world_size):
    sizes = sizes_that_fit(num_experts, world_size)
    assert sizes == [p for p in range(1, 41) if num_experts % p == 0 and world_size % p == 0]
    assert choose_size(num_experts, world_size) == sizes[-1] == math.gcd(num_experts, world_size)
    assert all(choose_size(num_experts, world_size, size) == size for size in sizes)


@pytest.mark.parametrize("num_experts, world_size, requested, fitting", [
    (4, 2, 3, "1, 2"), (8, 16, 16, "1, 2, 4, 8"), (5, 4, 2, "1"), (4, 4, 0, "1, 2, 4"),
])  # fmt: skip
def test_a_size_that_does_not_fit_is_refused_with_those_that_do(num_experts, world_size, requested, fitting):
    with pytest.raises(ValueError) as error:
        choose_size(num_experts, world_size, requested)
    text = str(error.value)
    assert f"size {requested} does not fit {num_experts} experts on {world_size} processes" in text
    assert f"expected one of {fitting}, or leave it out for {fitting.split(', ')[-1]}" in text


def test_neighbouring_ranks_share_a_copy():
    groups = [ExpertGroup(size=2, world_size=6, world_rank=rank) for rank in range(6)]
    assert [group.replica for group in groups] == [0, 0, 1, 1, 2, 2]
    assert [group.rank for group in groups] == [0, 1, 0, 1, 0, 1]
    assert {group.replicas for group in groups} == {3}
    assert [group.slice(8) for group in groups[:2]] == [(0, 4), (4, 8)]


def test_a_process_by_itself_holds_all_experts():
    group = expert_group(4)
    assert (group.size, group.world_size, group.slice(4)) == (1, 1, (0, 4))
    with pytest.raises(ValueError, match="size 2 does not fit 4 experts on 1 processes"):
        expert_group(4, 2)
    for context in (all_experts_here, widest_groups):
        with context():
            assert expert_group(4, 2).size == 1


@pytest.mark.parametrize("size", [2, 4])
def test_initial_values_do_not_depend_on_the_number_of_ranks(size):
    whole = dict(layer_of(0, 1).named_parameters())
    parts = [dict(layer_of(rank, size).named_parameters()) for rank in range(size)]
    assert all(part.keys() == whole.keys() for part in parts)
    for name, parameter in whole.items():
        if name.startswith("experts."):
            assert torch.equal(torch.cat([part[name] for part in parts]), parameter), name
        else:
            assert all(torch.equal(part[name], parameter) for part in parts), name


def test_experts_of_a_layer_start_differently():
    w_in = layer_of(0, 1).experts.w_in
    assert all(not torch.equal(w_in[i], w_in[j]) for i in range(4) for j in range(i))


def test_only_experts_that_are_spread_are_marked():
    assert not any(map(is_expert, layer_of(0, 1).parameters()))
    marked = {name for name, parameter in layer_of(0, 2).named_parameters() if is_expert(parameter)}
    assert marked == {name for name, _ in layer_of(0, 2).named_parameters() if name.startswith("experts.")}


def test_a_layer_whose_experts_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="4 experts can't be spread evenly over 3 ranks"):
        MoELayer(CONFIG, ExpertGroup(size=3, world_size=3))


def test_the_group_of_a_model_is_that_of_its_layers():
    spread, whole = layer_of(1, 2), layer_of(0, 1)
    assert group_of(torch.nn.ModuleList([whole, spread])) is spread.group
    assert group_of(whole).size == 1
    with pytest.raises(ValueError, match=r"spread over \[2, 4\] ranks"):
        group_of(torch.nn.ModuleList([spread, layer_of(0, 4)]))


def test_a_copied_model_keeps_its_group_and_the_marks_of_its_experts():
    layer = layer_of(1, 2)
    twin = copy.deepcopy(nn.Sequential(layer))[0]
    assert twin.group is layer.group
    marked = [name for name, parameter in layer.named_parameters() if is_expert(parameter)]
    assert marked and marked == [name for name, parameter in twin.named_parameters() if is_expert(parameter)]


def test_expert_gradients_are_divided_by_the_number_of_ranks():
    layer = layer_of(0, 2)
    layer.experts.w_in.grad = torch.ones_like(layer.experts.w_in)
    layer.router.weight.grad = torch.ones_like(layer.router.weight)
    average_expert_gradients(layer.parameters(), layer.group)
    assert (layer.experts.w_in.grad == 0.5).all()
    assert (layer.experts.w_out.grad == 0).all()  # none: another rank may have one
    assert (layer.router.weight.grad == 1).all()


def test_the_sum_of_squares_does_not_overflow_in_half_precision():
    parameter = torch.nn.Parameter(torch.zeros(4, dtype=torch.float16))
    parameter.grad = torch.full((4,), 60000.0, dtype=torch.float16)
    value = float(parameter.grad[0])
    assert sum_of_squares([parameter]).item() == pytest.approx(4 * value**2)


def test_traffic_tells_rows_for_others_from_its_own():
    traffic = Traffic()
    traffic.add(8, [3, 1], own=0)
    traffic.add(8, [0, 0], own=0)
    assert (traffic.bytes, traffic.remote_bytes, traffic.exchanges) == (32, 8, 2)
    traffic.reset()
    assert (traffic.bytes, traffic.remote_bytes, traffic.exchanges) == (0, 0, 0)
