"""Figures of experts in use: definitions for any load, and counts held against a loop over tokens."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fairseq_mhmoe.analysis.activation import (
    LayerCounts,
    averages,
    curve,
    empty_counts,
    layer_figures,
    report,
    threshold_of,
    total_counts,
)
from fairseq_mhmoe.evaluation.activation import activated_experts
from fairseq_mhmoe.evaluation.routing import LayerRouting


@st.composite
def layer_counts(draw, num_experts=None, top_k=None, heads=None):
    """Counts of a text of 1 to 40 tokens, of any load."""
    num_experts = num_experts or draw(st.integers(1, 9))
    top_k = top_k or draw(st.integers(1, num_experts))
    heads = heads or draw(st.integers(1, 4))
    sub_tokens = heads * draw(st.integers(1, 40))
    choices = draw(st.lists(st.integers(0, num_experts - 1), min_size=sub_tokens, max_size=top_k * sub_tokens))
    selections = torch.bincount(torch.tensor(choices), minlength=num_experts)
    return LayerCounts(draw(st.integers(0, 30)), top_k, heads, selections, sub_tokens, entropy_sum=0.5 * sub_tokens)


@given(layer_counts())
# the first expert is exactly at the threshold: 11 / 396 = 3 / (2 * 54)
@example(LayerCounts(0, 3, 1, torch.tensor([11, 1177] + [0] * 52), 396))
def test_activation_by_exact_fractions(counts):
    # K / (2 N) of the selections per sub-token, or per token, without a rounding error at the threshold
    limit = Fraction(counts.top_k, 2 * counts.selections.numel())
    loads = counts.selections.tolist()
    by_sub_token = [Fraction(load, counts.sub_tokens) > limit for load in loads]
    by_token = [Fraction(load, counts.tokens) > limit for load in loads]
    figures = layer_figures(counts)
    assert figures["activated_per_sub_token"] == pytest.approx(sum(by_sub_token) / len(loads))
    assert figures["activated_per_token"] == pytest.approx(sum(by_token) / len(loads))


@given(layer_counts(), st.floats(0, 2))
def test_a_higher_threshold_activates_fewer_and_tokens_more_than_sub_tokens(counts, threshold):
    low, high = (layer_figures(counts, value) for value in (threshold, 1.5 * threshold + 0.01))
    assert high["activated_per_token"] <= low["activated_per_token"] <= 1
    assert high["activated_per_sub_token"] <= low["activated_per_sub_token"] <= low["activated_per_token"]
    assert low["activated_per_token"] <= 1 - low["dead_share"] + 1e-9


@given(layer_counts())
def test_figures_of_the_load_from_its_shares(counts):
    loads = counts.selections.tolist()
    shares = [load / sum(loads) for load in loads]
    mean = sum(shares) / len(shares)
    entropy = -sum(share * math.log(share) for share in shares if share)
    figures = layer_figures(counts)
    assert figures["selections"] == loads
    assert figures["top_share"] == pytest.approx(max(shares)) and loads[figures["top_expert"]] == max(loads)
    assert figures["load_variation"] == pytest.approx(
        math.sqrt(sum((share - mean) ** 2 for share in shares) / len(shares)) / mean, abs=1e-12
    )
    if len(loads) > 1:
        assert figures["load_entropy"] == pytest.approx(entropy / math.log(len(loads)), abs=1e-12)
    assert figures["dead"] == [expert for expert, load in enumerate(loads) if load == 0]
    assert figures["dead_share"] == pytest.approx(loads.count(0) / len(loads))
    assert figures["gate_entropy"] == pytest.approx(0.5)


def test_an_even_load_and_a_collapsed_one():
    # 8 sub-tokens of 4 tokens, top 1 of 4 experts; threshold 1 / 8
    even = layer_figures(LayerCounts(1, 1, 2, torch.tensor([2, 2, 2, 2]), 8, entropy_sum=8 * math.log(4)))
    assert even["activated_per_token"] == even["activated_per_sub_token"] == 1
    assert (even["load_entropy"], even["load_variation"], even["top_share"]) == pytest.approx((1, 0, 0.25))
    assert even["gate_entropy_normalised"] == pytest.approx(1) and even["dead"] == []
    one = layer_figures(LayerCounts(1, 1, 2, torch.tensor([0, 8, 0, 0]), 8, dropped=6))
    assert one["activated_per_token"] == one["activated_per_sub_token"] == 0.25
    assert (one["load_entropy"], one["load_variation"], one["top_share"]) == pytest.approx((0, math.sqrt(3), 1))
    assert one["dead"] == [0, 2, 3] and one["top_expert"] == 1 and one["dropped_share"] == 0.75


def test_per_token_counts_all_sub_tokens_of_a_token():
    # frequencies 1/8 and 7/8 by sub-tokens, 1/4 and 7/4 by tokens; above 0.2 are one, and both
    figures = layer_figures(LayerCounts(1, 1, 2, torch.tensor([1, 7]), 8), threshold=0.2)
    assert (figures["activated_per_sub_token"], figures["activated_per_token"]) == (0.5, 1.0)


@given(st.lists(layer_counts(num_experts=5, top_k=2, heads=3), min_size=1, max_size=4))
def test_the_figures_of_scores_json_are_the_same(layers):
    stats = [
        torch.tensor([*layer.selections.tolist(), layer.sub_tokens, 0, 0], dtype=torch.float64) for layer in layers
    ]
    expected = activated_experts(stats, top_k=2, heads=3)
    found = report(layers, None, [0.1])
    assert found["activated_experts"] == {
        "threshold": expected.threshold,
        "per_token": pytest.approx(expected.per_token),
        "per_sub_token": pytest.approx(expected.per_sub_token),
    }
    assert len(found["layers"]) == len(layers)
    mean = sum(layer["top_share"] for layer in found["layers"]) / len(layers)
    assert found["top_share"] == averages(found["layers"])["top_share"] == pytest.approx(mean)


@given(layer_counts(), st.lists(st.floats(0, 2), min_size=1, max_size=5))
def test_the_curve_says_what_each_threshold_would_give(counts, thresholds):
    even = counts.top_k / counts.selections.numel()
    for point, threshold in zip(curve([counts, counts], thresholds), thresholds, strict=True):
        figures = layer_figures(counts, threshold)
        assert point["per_token"] == pytest.approx(figures["activated_per_token"])
        assert point["per_sub_token"] == pytest.approx(figures["activated_per_sub_token"])
        assert point["over_even"] * even == pytest.approx(point["threshold"]) and point["threshold"] == threshold
    assert threshold_of(counts) == even / 2 and threshold_of(counts, 0.7) == 0.7


@given(layer_counts(num_experts=4, top_k=2, heads=2), layer_counts(num_experts=4, top_k=2, heads=2))
def test_counts_of_two_texts_are_those_of_both_together(one, other):
    one.dropped, other.dropped, other.layer = 2, 3, one.layer
    [both] = total_counts([[one], [other]])
    assert both.selections.tolist() == [a + b for a, b in zip(one.selections.tolist(), other.selections.tolist())]
    assert (both.sub_tokens, both.dropped) == (one.sub_tokens + other.sub_tokens, 5)
    assert both.entropy_sum == one.entropy_sum + other.entropy_sum
    assert (both.layer, both.top_k, both.heads) == (one.layer, 2, 2)


@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 4),
    heads=st.integers(1, 3),
    top_k=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_counts_against_a_loop_over_tokens(batch, length, heads, top_k, seed):
    torch.manual_seed(seed)
    num_experts, shape = 3, (batch, length, heads)
    # N means nowhere; pads have choices here as in the mode that routes them, and must not be counted
    wanted = torch.randint(0, num_experts + 1, (*shape, top_k))
    kept = wanted.masked_fill(torch.rand(wanted.shape) < 0.3, num_experts)
    probs, real = torch.randn(*shape, num_experts).softmax(-1), torch.rand(batch, length) < 0.7
    counts = LayerCounts(5, top_k, heads, torch.zeros(num_experts, dtype=torch.int64))
    for row in range(batch):  # two or more forward passes add up
        where = slice(row, row + 1)
        counts.add(LayerRouting(5, wanted[where], kept[where], probs[where]), real[where])

    selections, sub_tokens, dropped, entropy = [0] * num_experts, 0, 0, 0.0
    for b in range(batch):
        for t in range(length):
            for h in range(heads if real[b, t] else 0):
                sub_tokens += 1
                entropy -= sum(p * math.log(p) for p in probs[b, t, h].tolist())
                for k in range(top_k):
                    if wanted[b, t, h, k] < num_experts:
                        selections[wanted[b, t, h, k]] += 1
                        dropped += int(kept[b, t, h, k] == num_experts)
    assert counts.selections.tolist() == selections
    assert (counts.sub_tokens, counts.tokens, counts.dropped) == (sub_tokens, int(real.sum()), dropped)
    assert counts.entropy_sum == pytest.approx(entropy, rel=1e-5, abs=1e-6)


def test_a_text_without_tokens_has_no_figures():
    with pytest.raises(ValueError, match="the text has no tokens"):
        report([LayerCounts(1, 1, 1, torch.zeros(2, dtype=torch.int64))], None, [])
    assert empty_counts([]) == []
