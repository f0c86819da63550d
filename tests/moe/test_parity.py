"""Widths and counts of equal cost: the papers' closed forms and choices, and that solutions cost what they should."""

from dataclasses import replace

import pytest

from fairseq_mhmoe.moe import MoEConfig
from fairseq_mhmoe.moe.cost import moe_layer_cost
from fairseq_mhmoe.moe.parity import (
    beta,
    count_for_params,
    everything,
    match_flops,
    match_parameters,
    matrices,
    nearest_multiple,
    width_for_flops,
    width_for_params,
)

SMOE = MoEConfig(768, 8, 2048, activation="swiglu", bias=False)
V2 = [  # heads and choices, the paper's width and count, exact count, parameters of its choice against SMoE's
    (2, 768, 40, 41 + 1 / 3, -0.031),
    (3, 512, 96, 93, 0.031),
]


def mhmoe(heads, **changes):
    return replace(SMOE, heads=heads, top_k=heads, **changes)


@pytest.mark.parametrize("heads, width, count, exact_count, deviation", V2)
def test_v2_equations_give_the_papers_choices(heads, width, count, exact_count, deviation):
    found = match_flops(mhmoe(heads), matrices(SMOE), matrices)
    assert found.width.exact == pytest.approx((2048 - 2 * 768 / 3) / heads) == width
    assert (found.width.nearest, found.width.deviation) == (width, 0)
    assert found.count.exact == pytest.approx(exact_count)
    assert found.count.nearest == count
    assert found.count.deviation == pytest.approx(deviation, abs=5e-4)


def test_v2_example_of_two_matrices():
    """d_moe = 4 d, k = 1, h = 3 gives d_ff = 3 d and 4 N - 1 experts."""
    smoe = MoEConfig(768, 8, 4 * 768, bias=False)
    sized = replace(smoe, heads=3)
    assert width_for_flops(sized, matrices(smoe).flops, matrices) == 3 * 768
    sized = replace(sized, ffn_dim=3 * 768)
    assert count_for_params(sized, matrices(smoe).params, matrices) == pytest.approx(4 * 8 - 1)


@pytest.mark.parametrize("experts, stated", [(32, 63 / 64), (128, 127 / 128)])
def test_v1_counted_beta_is_the_papers(experts, stated):
    xmoe = MoEConfig(768, experts, 3072, top_k=2, subln=True, router="xmoe")
    layer = replace(xmoe, heads=4)
    found = match_parameters(layer, everything(xmoe), everything).width
    assert beta(layer, found.exact) == pytest.approx(stated, abs=0.0025)
    assert abs(found.deviation) < 0.0005


def test_v1_equation_by_hand():
    """F = h F_x - 2 d^2 / (N m d / h): head and merge layers are taken off the experts."""
    xmoe = MoEConfig(768, 32, 3072, top_k=2)
    exact = width_for_params(replace(xmoe, heads=4), matrices(xmoe).params, matrices)
    assert exact == pytest.approx(4 * 3072 - 2 * 768**2 / (32 * 2 * 192))


@pytest.mark.parametrize("changes", [{}, dict(router="xmoe", subln=True, bias=True), dict(shared_expert_dim=64)])
def test_solutions_cost_what_they_should(changes):
    base = MoEConfig(48, 8, 256, top_k=2, activation="relu", **changes)
    layer = replace(base, heads=3)
    cost = moe_layer_cost(base)
    width = width_for_flops(layer, cost.flops_per_token)
    assert moe_layer_cost(replace(layer, ffn_dim=width)).flops_per_token == pytest.approx(cost.flops_per_token)
    width = width_for_params(layer, cost.params_total)
    assert moe_layer_cost(replace(layer, ffn_dim=width)).params_total == pytest.approx(cost.params_total)
    sized = replace(layer, ffn_dim=16)
    count = count_for_params(sized, cost.params_total)
    assert moe_layer_cost(replace(sized, num_experts=count)).params_total == pytest.approx(cost.params_total)


def test_the_nearest_multiple_is_never_zero():
    assert [nearest_multiple(value) for value in (0.3, 11.9, 12.1, 41.3)] == [8, 8, 16, 40]


def test_what_no_width_reaches_is_refused():
    small = MoEConfig(768, 2, 16, activation="swiglu", bias=False)
    with pytest.raises(ValueError, match="no experts make the FLOPs equal.*match a larger one"):
        match_flops(mhmoe(2), matrices(small), matrices)
