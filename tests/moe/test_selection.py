"""Choice of experts: order, policies, queues, capacity (S sub-tokens, N experts, K choices)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.moe import MoEConfig
from fairseq_mhmoe.moe.selection import queue_locations, select_experts


def config(**fields) -> MoEConfig:
    return MoEConfig(**{"d_model": 4, "num_experts": 4, "ffn_dim": 4, "top_k": 2, **fields})


LOGITS = torch.tensor([[3.0, 2, 1, 0], [0, 3, 2, 1], [3, 0, 1, 2]])


def test_choices_are_by_descending_gate():
    selection = select_experts(LOGITS, config(), True)
    assert selection.choices.tolist() == [[0, 1], [1, 2], [0, 3]]
    torch.testing.assert_close(selection.gates, LOGITS.softmax(1).gather(1, selection.choices))


@pytest.mark.parametrize("policy", ["all", "sampling"])
def test_log_sums_and_their_gradient_equal_logsumexp(policy):
    torch.manual_seed(0)
    logits = (10 * torch.randn(7, 4, dtype=torch.float64)).requires_grad_()
    log_sums = select_experts(logits, config(second_policy=policy), True).log_sums
    torch.testing.assert_close(log_sums, logits.logsumexp(1))
    ours, theirs = (torch.autograd.grad(v.square().sum(), logits)[0] for v in (log_sums, logits.logsumexp(1)))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("normalize", ["before", "after"])
def test_normalised_gates_sum_to_one(normalize):
    gates = select_experts(LOGITS, config(normalize_gates=normalize), True).gates
    torch.testing.assert_close(gates.sum(1), torch.ones(3))


def test_one_choice_keeps_its_gate_when_normalised():
    gates = select_experts(LOGITS, config(top_k=1, normalize_gates="before"), True).gates
    torch.testing.assert_close(gates[:, 0], LOGITS.softmax(1).amax(1))


def test_normalising_after_dropping_gives_a_lone_survivor_all():
    rows = torch.tensor([[3.0, 2, 0, 0]] * 4)
    before = select_experts(rows, config(capacity_factor=1.0, normalize_gates="before"), True)
    after = select_experts(rows, config(capacity_factor=1.0, normalize_gates="after"), True)
    assert (before.experts < 4).sum(1).tolist() == [2, 2, 0, 0]
    assert after.gates.sum(1).tolist() == pytest.approx([1, 1, 0, 0])
    one_left = torch.tensor([[3.0, 2, 0, 0], [3, 0, 2, 0], [3, 0, 0, 2]])
    lone = select_experts(one_left, config(capacity_factor=1.0, top_k=2, normalize_gates="after"), True)
    assert lone.gates[2].tolist() == pytest.approx([0, 1])


@given(st.data())
def test_queues_equal_a_brute_force_count(data):
    tokens, top_k, num_experts = data.draw(st.integers(0, 7)), data.draw(st.integers(1, 3)), 3
    experts = torch.tensor(
        data.draw(st.lists(st.lists(st.integers(0, num_experts), min_size=top_k, max_size=top_k), min_size=tokens,
                           max_size=tokens)), dtype=torch.int64).view(tokens, top_k)
    priority = torch.tensor(data.draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=tokens, max_size=tokens)))
    prioritized = data.draw(st.booleans())
    order = sorted(range(tokens), key=lambda s: -float(priority[s])) if prioritized else range(tokens)
    lengths, expected = [0] * (num_experts + 1), torch.zeros_like(experts)
    for k in range(top_k):
        for s in order:
            expected[s, k] = lengths[experts[s, k]]
            lengths[experts[s, k]] += 1
    assert torch.equal(queue_locations(experts, num_experts, priority if prioritized else None), expected)


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 3), st.sampled_from([0.5, 1.0, 1.25, 2.0]))
def test_capacity_is_k_times_the_floored_share(tokens, num_experts, top_k, factor):
    top_k = min(top_k, num_experts)
    rules = config(num_experts=num_experts, top_k=top_k, capacity_factor=factor)
    logits = torch.zeros(tokens, num_experts)
    logits[:, 0] = 9  # everyone's first choice
    kept = (select_experts(logits, rules, True).experts == 0).sum()
    assert int(kept) == min(tokens, top_k * math.floor(factor * math.ceil(tokens / num_experts)))


@pytest.mark.parametrize("training, expected", [(True, 4), (False, 6)])
def test_evaluation_has_its_own_capacity(training, expected):
    logits = torch.zeros(16, 4)
    logits[:, 0] = 9
    rules = config(top_k=1, capacity_factor=1.0, eval_capacity_fraction=0.36)
    assert int((select_experts(logits, rules, training).experts == 0).sum()) == expected  # ceil(0.36 * 16)


def test_negative_evaluation_fraction_means_as_in_training():
    logits = torch.zeros(16, 4)
    rules = config(top_k=1, capacity_factor=1.0, eval_capacity_fraction=-1.0)
    assert torch.equal(select_experts(logits, rules, False).experts, select_experts(logits, rules, True).experts)


@pytest.mark.parametrize("padding, expected", [("masked", 1), ("counted", 2)])
def test_pads_count_for_capacity_only_when_asked(padding, expected):
    logits = torch.zeros(8, 4)
    logits[:, 0] = 9
    valid = torch.tensor([True] * 4 + [False] * 4)
    rules = config(top_k=1, capacity_factor=1.0, padding=padding)
    selection = select_experts(logits, rules, True, valid)
    assert int((selection.experts < 4).sum()) == expected
    assert (selection.experts[4:] == 4).all() and (selection.gates[4:] == 0).all()


def test_batch_prioritized_keeps_the_surest():
    logits = torch.tensor([[1.0, 0, 0, 0], [5, 0, 0, 0], [3, 0, 0, 0], [2, 0, 0, 0]])
    plain = select_experts(logits, config(top_k=1, capacity_factor=1.0), True)
    sure = select_experts(logits, config(top_k=1, capacity_factor=1.0, batch_prioritized=True), True)
    assert plain.experts[:, 0].tolist() == [0, 4, 4, 4]
    assert sure.experts[:, 0].tolist() == [4, 0, 4, 4]


def test_random_policy_takes_the_second_expert_with_twice_its_gate():
    rules = config(second_policy="random")
    gates = select_experts(LOGITS, rules, True, noise=torch.zeros(3, 1)).gates
    threshold = 2 * gates[:, 1:]
    assert (select_experts(LOGITS, rules, True, noise=threshold - 1e-3).wanted[:, 1] < 4).all()
    left_out = select_experts(LOGITS, rules, True, noise=threshold + 1e-3)
    assert (left_out.wanted[:, 1] == 4).all() and (left_out.wanted[:, 0] < 4).all()
    assert (left_out.gates[:, 1] == 0).all()


def test_sampling_draws_the_second_expert_in_proportion_to_its_gate():
    torch.manual_seed(0)
    logits = torch.tensor([[4.0, 2, 1, 0]]).expand(20000, 4)
    selection = select_experts(logits, config(second_policy="sampling"), True)
    assert (selection.choices[:, 0] == 0).all()
    drawn = torch.bincount(selection.choices[:, 1], minlength=4) / 20000
    torch.testing.assert_close(drawn[1:], torch.tensor([2.0, 1, 0]).softmax(0), atol=0.015, rtol=0)


@pytest.mark.parametrize("policy", ["random", "sampling"])
def test_evaluation_is_deterministic_unless_asked(policy):
    logits = torch.randn(64, 4)
    plain = select_experts(logits, config(), False)
    quiet = select_experts(logits, config(second_policy=policy), False)
    noisy = select_experts(logits, config(second_policy=policy, sample_in_eval=True), False)
    assert torch.equal(quiet.experts, plain.experts)
    assert not torch.equal(noisy.experts, plain.experts)
