"""How many rows may go where, without any other process (S sub-tokens, N experts, K choices, P ranks)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.moe import MoEConfig
from fairseq_mhmoe.moe.selection import capacity_bound, select_experts


@st.composite
def routings(draw):
    """(logits [S, N], config, mask or None, P)"""
    ranks = draw(st.sampled_from([2, 3]))
    num_experts, tokens = ranks * draw(st.integers(1, 3)), draw(st.integers(0, 20))
    config = MoEConfig(
        d_model=4,
        num_experts=num_experts,
        ffn_dim=4,
        top_k=draw(st.integers(1, min(3, num_experts))),
        capacity_factor=draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])),
        rank_capacity_factor=draw(st.sampled_from([0.3, 1.0, 1.5])),
        eval_capacity_fraction=draw(st.sampled_from([-1.0, 0.4])),
        padding=draw(st.sampled_from(["masked", "counted"])),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    skew = draw(st.sampled_from([0.0, 3.0]))
    logits = torch.randn(tokens, num_experts, generator=generator) + skew * torch.arange(num_experts)
    valid = torch.rand(tokens, generator=generator) < 0.7 if draw(st.booleans()) else None
    return logits, config, valid, ranks


def choices_per_rank(experts, config, ranks):
    per_expert = torch.bincount(experts.reshape(-1), minlength=config.num_experts + 1)[:-1]
    return per_expert.view(ranks, -1).sum(1)


@given(routings())
def test_no_rank_is_sent_more_than_its_share(routing):
    logits, config, valid, ranks = routing
    selection = select_experts(logits, config, True, valid, ranks=ranks)
    tokens = logits.shape[0] if valid is None else int(valid.sum())
    limit = math.ceil(config.rank_capacity_factor * tokens * config.top_k / ranks)
    assert (choices_per_rank(selection.experts, config, ranks) <= limit).all()


@given(routings())
def test_the_share_of_a_rank_drops_no_more_than_it_must(routing):
    logits, config, valid, ranks = routing
    selection = select_experts(logits, config, True, valid, ranks=ranks)
    alone = select_experts(logits, config, True, valid)  # the experts' capacity only
    tokens = logits.shape[0] if valid is None else int(valid.sum())
    limit = math.ceil(config.rank_capacity_factor * tokens * config.top_k / ranks)
    before, after = (choices_per_rank(s.experts, config, ranks) for s in (alone, selection))
    # what the experts' own capacity has dropped takes up no place
    assert (after <= before.clamp(max=limit)).all()
    assert (after == before.clamp(max=limit)).all()
    dropped = selection.experts == config.num_experts
    assert (selection.gates[dropped] == 0).all()
    assert torch.equal(selection.experts[~dropped], alone.experts[~dropped])


@given(routings(), st.booleans())
def test_no_expert_gets_more_than_the_bound(routing, training):
    logits, config, valid, ranks = routing
    selection = select_experts(logits, config, training, valid, ranks=ranks)
    bound = capacity_bound(config, training, logits.shape[0])
    counts = torch.bincount(selection.experts.reshape(-1), minlength=config.num_experts + 1)[:-1]
    assert bound is None or (counts <= bound).all()


def test_a_single_rank_has_no_share():
    config = MoEConfig(d_model=4, num_experts=2, ffn_dim=4, rank_capacity_factor=0.5)
    selection = select_experts(torch.tensor([[5.0, 0], [5, 0], [5, 0]]), config, True, ranks=1)
    assert selection.experts.tolist() == [[0], [0], [0]]


def test_earlier_sub_tokens_keep_their_place():
    config = MoEConfig(d_model=4, num_experts=4, ffn_dim=4, rank_capacity_factor=1.0)
    logits = torch.tensor([[5.0, 0, 0, 0], [0, 5, 0, 0], [5, 0, 0, 0], [0, 0, 0, 5]])
    selection = select_experts(logits, config, True, ranks=2)
    assert selection.experts.tolist() == [[0], [1], [4], [3]]  # ceil(4 / 2) choices for experts 0 and 1 together


@pytest.mark.parametrize("tokens, training, bound", [(8, True, 4), (9, True, 6), (0, True, 0), (8, False, 4)])
def test_the_bound_by_hand(tokens, training, bound):
    config = MoEConfig(d_model=4, num_experts=4, ffn_dim=4, top_k=2, capacity_factor=1.0)
    assert capacity_bound(config, training, tokens) == bound


def test_the_bound_of_evaluation_and_of_none():
    fraction = MoEConfig(d_model=4, num_experts=4, ffn_dim=4, eval_capacity_fraction=0.3)
    assert capacity_bound(fraction, False, 10) == 3
    assert capacity_bound(fraction, True, 10) is None


def test_an_exchange_by_capacity_needs_a_capacity():
    with pytest.raises(ValueError, match="exchange='capacity'; expected 'counts' without a capacity_factor"):
        MoEConfig(d_model=4, num_experts=4, ffn_dim=4, exchange="capacity")
