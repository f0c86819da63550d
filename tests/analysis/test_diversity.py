"""Diversity against loops and enumeration."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.analysis.diversity import (
    Counter,
    Sizes,
    distinct_experts,
    expected_independent,
    expected_uniform,
    sizes_of,
)
from fairseq_mhmoe.evaluation.routing import LayerRouting


@st.composite
def choices(draw):
    """N, and experts [T, H, K] where a sub-token's K choices differ, as those of a router do."""
    num_experts, heads, tokens = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    top_k = draw(st.integers(1, num_experts))
    rows = [draw(st.permutations(range(num_experts)))[:top_k] for _ in range(tokens * heads)]
    return num_experts, torch.tensor(rows).view(tokens, heads, top_k)


@given(choices())
def test_distinct_experts_are_those_of_a_set(drawn):
    num_experts, experts = drawn
    _, heads, top_k = experts.shape
    found = distinct_experts(experts, num_experts).tolist()
    assert found == [len({each for head in token for each in head}) for token in experts.tolist()]
    assert all(top_k <= number <= min(num_experts, heads * top_k) for number in found)


def test_nowhere_is_no_expert():
    experts = torch.tensor([[[0, 3], [3, 0]], [[3, 3], [3, 3]], [[2, 1], [3, 0]]])
    assert distinct_experts(experts, num_experts=3).tolist() == [1, 0, 3]


@pytest.mark.parametrize("num_experts, heads, top_k", [(3, 2, 1), (4, 2, 2), (4, 3, 1), (3, 3, 3)])
def test_uniform_routing_by_enumeration(num_experts, heads, top_k):
    picks = list(itertools.combinations(range(num_experts), top_k))
    numbers = [len(set().union(*chosen)) for chosen in itertools.product(picks, repeat=heads)]
    assert expected_uniform(num_experts, heads, top_k) == pytest.approx(np.mean(numbers))


def test_independent_heads_by_enumeration():
    shares = np.array([[0.5, 0.25, 0.25], [0.0, 0.1, 0.9]])
    expected = sum(
        shares[0, first] * shares[1, second] * len({first, second})
        for first, second in itertools.product(range(3), repeat=2)
    )
    assert expected_independent(shares) == pytest.approx(expected)
    assert expected_independent(np.full((4, 8), 2 / 8)) == pytest.approx(expected_uniform(8, 4, 2))


def routing(generator, num_experts, shape):
    """A layer's decision over [B, T, H, K] with some choices dropped."""
    *tokens, top_k = shape
    wanted = torch.rand(*tokens, num_experts, generator=generator).topk(top_k, dim=-1).indices
    dropped = torch.rand(shape, generator=generator) < 0.2
    return LayerRouting(0, wanted, wanted.masked_fill(dropped, num_experts), torch.empty(0))


def test_counter_against_loops():
    generator = torch.Generator().manual_seed(1)
    batch, length, heads, top_k, num_experts = 2, 5, 3, 2, 6
    counter = Counter(Sizes(num_experts, heads, top_k, (1, 3)))
    every, first = [], []
    by_layer = [[], []]
    load = np.zeros((2, heads, num_experts))
    dropped = 0
    for _ in range(2):
        layers = [routing(generator, num_experts, (batch, length, heads, top_k)) for _ in range(2)]
        valid = torch.rand(batch, length, generator=generator) < 0.7
        found = counter.add(layers, valid)
        expected = []
        for row, place in itertools.product(range(batch), range(length)):
            if not valid[row, place]:
                continue
            numbers = []
            for number, layer in enumerate(layers):
                token = layer.wanted[row, place].tolist()
                numbers.append((len(set(sum(token, []))), len({head[0] for head in token})))
                by_layer[number].append(numbers[-1])
                for head, chosen in enumerate(token):
                    load[number, head, chosen] += 1
                dropped += sum(map(lambda a, b: a != b, sum(token, []), layer.experts[row, place].flatten().tolist()))
            expected.append(np.mean(numbers, axis=0))
        assert np.array(found).T == pytest.approx(np.array(expected))
        every += [numbers[0] for numbers in expected]
        first += [numbers[1] for numbers in expected]
    report = counter.report()
    assert report["tokens"] == len(every)
    assert (report["mean"], report["mean_first_choice"]) == pytest.approx((np.mean(every), np.mean(first)))
    for number, layer in enumerate(report["layers"]):
        assert layer["block"] == (1, 3)[number]
        assert (layer["mean"], layer["mean_first_choice"]) == pytest.approx(tuple(np.mean(by_layer[number], axis=0)))
        assert layer["expected_independent_heads"] == pytest.approx(expected_independent(load[number] / len(every)))
    assert report["dropped_share"] == pytest.approx(dropped / (len(every) * 2 * heads * top_k))
    assert report["expected_uniform"] == pytest.approx(expected_uniform(6, 3, 2))
    assert report["expected_uniform_first_choice"] == pytest.approx(expected_uniform(6, 3, 1))


def model(layers):
    return SimpleNamespace(path=Path("model.pt"), moe_layers=lambda: layers)


def test_models_without_sub_tokens_are_refused():
    with pytest.raises(ValueError, match="model.pt is a dense model"):
        sizes_of(model([]))
    config = SimpleNamespace(heads=1, top_k=2, num_experts=8)
    with pytest.raises(ValueError, match="1 sub-token per token .*--mhmoe-heads-number 1.* K = 2 choices.* always"):
        sizes_of(model([(1, SimpleNamespace(config=config))]))


def test_sizes_of_a_model():
    layer = SimpleNamespace(config=SimpleNamespace(heads=3, top_k=2, num_experts=5))
    assert sizes_of(model([(1, layer), (3, layer)])) == Sizes(5, 3, 2, (1, 3))
    assert Sizes(5, 3, 2, (1,)).largest == 5 and Sizes(8, 3, 2, (1,)).largest == 6
