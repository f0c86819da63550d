"""Statistics by hand."""

import math

import pytest
import torch

from fairseq_mhmoe.moe import MoEConfig, MoELayer
from fairseq_mhmoe.moe.stats import LayerStats, uniform_threshold, unpack

STATS = LayerStats(load=torch.tensor([6.0, 2, 0, 0]), sub_tokens=8, dropped=2, entropy_sum=4.0)


def test_shares_by_hand():
    assert STATS.dropped_share == 0.25
    assert STATS.entropy == 0.5
    assert STATS.load_max == 3
    assert STATS.dead_share == 0.5
    assert STATS.load_entropy == pytest.approx((2 - 0.75 * math.log2(3)) / 2)
    assert STATS.load_variation == pytest.approx(math.sqrt(6) / 2)
    assert STATS.selection_frequency().tolist() == [0.75, 0.25, 0, 0]
    assert STATS.selection_frequency(heads=2).tolist() == [1.5, 0.5, 0, 0]


def test_activated_share_depends_on_the_threshold():
    assert STATS.activated(0.1) == 0.5
    assert STATS.activated(0.3) == 0.25
    assert STATS.activated(0.3, heads=2) == 0.5


def test_threshold_is_half_of_the_uniform_share():
    assert uniform_threshold(2, 8) == 0.125


def test_entropy_of_a_uniform_gate_is_log_n():
    layer = MoELayer(MoEConfig(4, 4, 4))
    torch.nn.init.zeros_(layer.router.weight)
    assert unpack(layer(torch.randn(2, 3, 4))[3]).entropy == pytest.approx(math.log(4))


def test_statistics_of_batches_add_up():
    torch.manual_seed(0)
    layer = MoELayer(MoEConfig(4, 4, 4, top_k=2, capacity_factor=1.0))
    a, b = layer(torch.randn(1, 3, 4))[3], layer(torch.randn(1, 5, 4))[3]
    together = unpack(a + b)
    assert together.sub_tokens == 8 and together.load.sum() == 16
    assert together.dropped == unpack(a).dropped + unpack(b).dropped


def test_nothing_seen_is_all_zero():
    empty = unpack(torch.zeros(7))
    assert (empty.dropped_share, empty.entropy, empty.activated(0.1)) == (0, 0, 0)
    assert (empty.load_entropy, empty.load_variation, empty.dead_share) == (0, 0, 1)


def test_one_expert_alone_has_an_even_load():
    one = LayerStats(load=torch.tensor([5.0]), sub_tokens=5, dropped=0, entropy_sum=0.0)
    assert (one.load_entropy, one.load_variation, one.dead_share) == (1, 0, 0)
