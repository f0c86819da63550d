"""Rows on their way to other ranks and back: where they go, what they weigh, and who waits (names as in harness.py)."""

import copy

import pytest
import torch
import torch.distributed as dist
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fairseq_mhmoe.moe import layer as moe_layer
from fairseq_mhmoe.moe.dispatch import Plan, dispatch, make_plan
from fairseq_mhmoe.moe.exchange import run_by_capacity, run_by_counts
from fairseq_mhmoe.moe.parallel import expert_group
from fairseq_mhmoe.moe.selection import capacity_bound, select_experts

from . import harness
from .harness import UPDATES, WIDTH, Case, assert_equal_training, gathered, train
from .launcher import python_ranks

LAYERS = 2
BYTES = 8  # of a float64
BY_CAPACITY = dict(exchange="capacity", capacity_factor=1.0)
UNEVEN = dict(shapes=((2, 5), (1, 3)))
CASES = {
    "by counts": Case(2, layer=dict(top_k=2, heads=3), pads=(0.3, 0.0), **UNEVEN),
    "by counts, recomputed": Case(2, layer=dict(top_k=2, heads=3), pads=(0.3, 0.0), recompute=True, **UNEVEN),
    "by counts, drops": Case(2, layer=dict(top_k=2, capacity_factor=1.0), pads=(0.3, 0.0), **UNEVEN),
    "by capacity": Case(2, layer=dict(top_k=2, **BY_CAPACITY), **UNEVEN),
    "by capacity, recomputed": Case(2, layer=dict(top_k=2, **BY_CAPACITY), recompute=True, **UNEVEN),
    "a rank without rows": Case(2, shapes=((2, 5), (0, 5))),
    "rank capacity": Case(2, layer=dict(top_k=2, rank_capacity_factor=1.0), **UNEVEN),
    "rank capacity, pads": Case(2, layer=dict(heads=3, rank_capacity_factor=0.75), pads=(0.3, 1.0), **UNEVEN),
    "rank capacity, all to one expert": Case(2, layer=dict(heads=2, rank_capacity_factor=1.25), one_expert=True),
    "rank capacity, by capacity": Case(2, layer=dict(top_k=2, rank_capacity_factor=1.0, **BY_CAPACITY), **UNEVEN),
    "float32": Case(2, layer=dict(top_k=2, heads=3), dtype=torch.float32),
    "bfloat16": Case(2, layer=dict(top_k=2, heads=3), dtype=torch.bfloat16),
    "float16": Case(2, layer=dict(top_k=2, heads=3), dtype=torch.float16),
    "bfloat16, by capacity": Case(2, layer=dict(top_k=2, heads=3, **BY_CAPACITY), dtype=torch.bfloat16),
}


@pytest.fixture(scope="module")
def in_ranks():
    """What both ranks saw of every case."""
    results = python_ranks(harness.train_all, 2, (CASES,), seconds=240)
    return {name: [rank[name] for rank in results] for name in CASES}


def rows_kept(ran):
    """Choices that got an expert, over all layers and batches."""
    return sum(int(stats[:, :-3].sum() - stats[:, -2].sum()) for stats in ran.stats)


@pytest.mark.parametrize("name, times", [
    ("by counts", 4), ("by counts, recomputed", 6), ("by counts, drops", 4), ("a rank without rows", 4),
])  # fmt: skip
def test_bytes_by_counts_are_those_of_the_formula(in_ranks, name, times):
    ranks, width = in_ranks[name], WIDTH // CASES[name].layer.get("heads", 1)
    assert all(ran.exchanges == UPDATES * LAYERS * times for ran in ranks)
    # a rank sends its own rows out, and those of others back
    assert sum(ran.bytes for ran in ranks) == times * sum(map(rows_kept, ranks)) * width * BYTES


@pytest.mark.parametrize("name, times", [("by capacity", 4), ("by capacity, recomputed", 6)])
def test_bytes_by_capacity_are_those_of_the_slots_of_the_largest_batch(in_ranks, name, times):
    case = CASES[name]
    slots = capacity_bound(harness.build(case).layers[0].config, True, tokens=2 * 5)
    for ran in in_ranks[name]:
        assert ran.exchanges == UPDATES * LAYERS * times
        assert ran.bytes == UPDATES * LAYERS * times * case.experts * slots * WIDTH * BYTES
        assert ran.remote_bytes == ran.bytes // 2


def test_remote_bytes_are_those_of_rows_for_experts_of_other_ranks(in_ranks):
    ranks = in_ranks["by counts"]
    leaving = 0
    for rank, ran in enumerate(ranks):
        load = sum(ran.stats)[:, :-3].view(LAYERS, 2, -1).sum(-1)
        leaving += int(load[:, 1 - rank].sum())
    assert sum(ran.remote_bytes for ran in ranks) == 4 * leaving * (WIDTH // 3) * BYTES


@pytest.mark.parametrize("name", ["by counts", "by capacity"])
def test_recomputation_changes_no_gradient(in_ranks, name):
    for plain, recomputed in zip(in_ranks[name], in_ranks[f"{name}, recomputed"]):
        assert plain.gradients.keys() == recomputed.gradients.keys()
        for parameter, gradient in plain.gradients.items():
            assert torch.equal(recomputed.gradients[parameter], gradient), parameter


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("rank capacity")])
def test_rank_capacity_drops_what_one_process_drops_when_told_the_number_of_ranks(in_ranks, monkeypatch, name):
    def select(logits, config, training, valid, noise, ranks):
        return select_experts(logits, config, training, valid, noise, 2)

    monkeypatch.setattr(moe_layer, "select_experts", select)
    assert_equal_training(in_ranks[name], train(CASES[name]))
    assert sum(float(stats[:, -2].sum()) for ran in in_ranks[name] for stats in ran.stats) > 0


def test_rank_capacity_bounds_what_a_rank_receives_under_skew(in_ranks):
    name = "rank capacity, all to one expert"
    limit = 13  # ceil(1.25 * 20 sub-tokens / 2 ranks) from every sender
    for ran in in_ranks[name]:
        first = ran.stats[0][0]
        assert first[:-3].tolist() == [0, 0, 0, 20]
        assert first[-2] == 20 - limit


@pytest.mark.parametrize("name, tolerance", [("bfloat16", 0.05), ("float16", 0.01), ("bfloat16, by capacity", 0.05)])
def test_half_precision_stays_close_to_float32(in_ranks, name, tolerance):
    ranks, single = in_ranks[name], train(CASES[name])
    for ran in ranks:
        assert ran.norms.isfinite().all()
        assert all(weight.isfinite().all() for weight in ran.weights.values())
    for ours, theirs in zip(harness.interleaved(ranks, "outputs")[:2], single.outputs[:2]):
        assert ours.dtype == CASES[name].dtype
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    for parameter, gradient in gathered(ranks, "gradients").items():
        torch.testing.assert_close(gradient, single.gradients[parameter], rtol=tolerance, atol=tolerance)
    if name != "bfloat16, by capacity":
        for ours, theirs in zip(ranks, in_ranks["float32"]):
            torch.testing.assert_close(ours.outputs[0].float(), theirs.outputs[0], rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(ours.norms[0], theirs.norms[0], rtol=tolerance, atol=tolerance)


def evaluate_and_copy():
    """What a rank sees without gradients, and with a copy of a model that has just been trained on a batch."""
    case = CASES["by counts"]
    group = expert_group(case.experts)
    model = harness.build(case, group)
    tokens, _ = harness.batch(case, 0, dist.get_rank())
    trained = model(tokens)
    trained[0].sum().backward()
    twin = copy.deepcopy(model)
    group.traffic.reset()
    model.eval()
    with torch.no_grad():
        evaluated = model(tokens)
    exchanges = group.traffic.exchanges
    of_twin = twin(tokens)
    same_group = all(layer.group is group for layer in twin.layers)
    return trained[0].detach(), evaluated[0], exchanges, of_twin[0].detach(), same_group


@pytest.fixture(scope="module")
def evaluated():
    """What both ranks return from `evaluate_and_copy`."""
    return python_ranks(evaluate_and_copy, 2)


def test_evaluation_exchanges_twice_per_layer_and_gives_the_same(evaluated):
    for trained, without_gradients, exchanges, _, _ in evaluated:
        torch.testing.assert_close(without_gradients, trained, rtol=1e-12, atol=1e-12)
        assert exchanges == 2 * LAYERS


def test_a_copied_model_talks_to_the_same_ranks(evaluated):
    for trained, _, _, of_twin, same_group in evaluated:
        torch.testing.assert_close(of_twin, trained, rtol=0, atol=0)
        assert same_group


class Visit:
    """Stands for the experts: hands rows back sorted by expert, and checks that each is where its expert lives."""

    def __init__(self, first, padded):
        self.first, self.padded, self.rows = first, padded, 0

    def __call__(self, rows, counts, complete=True, sizes=None, source=None):
        if source is not None:
            rows = dispatch(rows, Plan(*source, counts, complete))
        assert complete and counts.tolist() == sizes and sum(sizes) == rows.shape[0]
        own = self.first + torch.repeat_interleave(torch.arange(len(sizes)), counts)
        expert = rows[:, 0] - 1  # 0 marks the padding of a slot
        assert torch.equal(expert[expert >= 0], own[expert >= 0].to(rows.dtype))
        assert self.padded or (expert >= 0).all()
        self.rows += int((expert >= 0).sum())
        return rows * 1


def there_and_back(routings):
    """Sends the rows of every routing to their experts and back, by counts and by capacity; checks them in this rank.

    Args:
        routings: (N, P, K, S of each rank, seed). A row carries its expert + 1, its rank and its number.
    Returns:
        [rows sent, rows seen by this rank's experts] of every routing and exchange.
    """
    seen = []
    for num_experts, size, top_k, lengths, seed in routings:
        group = expert_group(num_experts, size)
        rank = dist.get_rank()
        tokens = lengths[rank]
        generator = torch.Generator().manual_seed(seed + rank)
        experts = torch.randint(0, num_experts + 1, (tokens, top_k), generator=generator)  # N: to no expert
        plan = make_plan(experts, num_experts, complete=False)
        expert = experts.view(-1)[plan.order]
        rows = torch.stack([expert + 1, torch.full_like(expert, rank), torch.arange(expert.numel())], 1).double()
        routed = (expert < num_experts).unsqueeze(1)
        first, _ = group.slice(num_experts)
        for padded in (False, True):
            visit = Visit(first, padded)
            sent = rows.clone().requires_grad_()
            if padded:
                back = run_by_capacity(sent, plan, tokens * top_k, visit, group, "here")
            else:
                back = run_by_counts(sent, plan, visit, group, "here")
            assert torch.equal(back, rows * routed)
            gradient = torch.randn(rows.shape, generator=generator, dtype=rows.dtype)
            back.backward(gradient)
            assert torch.equal(sent.grad, gradient * routed)
            seen.append([int(routed.sum()), visit.rows])
    return seen


@st.composite
def routings(draw):
    size = draw(st.sampled_from([2, 4]))
    num_experts = size * draw(st.integers(1, 3))
    lengths = draw(st.lists(st.integers(0, 6), min_size=4, max_size=4))
    return num_experts, size, draw(st.integers(1, 3)), lengths, draw(st.integers(0, 999))


@settings(max_examples=4)
@example([(4, 4, 1, [0, 0, 0, 0], 0), (4, 2, 2, [0, 0, 3, 0], 0)])
@given(st.lists(routings(), min_size=12, max_size=12))
def test_rows_visit_the_rank_of_their_expert_and_come_back(examples):
    ranks = torch.tensor(python_ranks(there_and_back, 4, (examples,)))
    sent, visited = ranks.sum(0).unbind(1)
    assert torch.equal(sent, visited)
