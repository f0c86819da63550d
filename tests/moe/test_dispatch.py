"""The permutation to the experts and back (S sub-tokens, K choices, N experts)."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.moe.dispatch import combine, count_experts, dispatch, make_plan

CHOICES = st.integers(1, 3).flatmap(
    lambda k: st.lists(st.lists(st.integers(0, 4), min_size=k, max_size=k), min_size=1, max_size=9)
)


@given(CHOICES)
def test_rows_are_sorted_by_expert_and_find_their_way_back(choices):
    experts = torch.tensor(choices)
    tokens, top_k = experts.shape
    plan = make_plan(experts, 4, complete=False)
    x = torch.arange(tokens, dtype=torch.float64).unsqueeze(1)
    rows = dispatch(x, plan)
    by_row = experts.reshape(-1)[plan.order]
    assert (by_row[1:] >= by_row[:-1]).all()
    assert plan.counts.tolist() == [sum(e == c for row in choices for c in row) for e in range(4)]
    assert torch.equal(rows[plan.inverse].squeeze(-1), x.expand(tokens, top_k))
    gates = torch.rand(tokens, top_k, dtype=torch.float64)
    torch.testing.assert_close(combine(rows, gates, plan), x * gates.sum(1, keepdim=True))


@given(CHOICES)
def test_rows_of_one_expert_keep_their_order(choices):
    plan = make_plan(torch.tensor(choices), 4, complete=False)
    by_row = torch.tensor(choices).reshape(-1)[plan.order]
    for expert in range(5):
        assert plan.order[by_row == expert].tolist() == sorted(plan.order[by_row == expert].tolist())


def test_gradients_are_those_of_finite_differences():
    plan = make_plan(torch.tensor([[0, 2], [2, 1], [3, 0]]), 3, complete=False)
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    gates = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, g: combine(dispatch(x, plan) ** 2, g, plan), (x, gates))


def test_the_id_behind_the_experts_is_not_counted():
    assert count_experts(torch.tensor([0, 3, 3, 1]), 3).tolist() == [1, 1, 0]
