"""R ranks train as one process does on the same batches: float64, SGD, 20 updates, 1e-9 (names as in harness.py)."""

import pytest
import torch

from tests.torch_features import available

from . import harness
from .harness import UPDATES, Case, assert_equal_training, gathered, train
from .launcher import python_ranks

CAPACITY = dict(capacity_factor=1.0)
BY_CAPACITY = dict(exchange="capacity", **CAPACITY)
UNEVEN = dict(shapes=((2, 5), (1, 3), (3, 4), (1, 7)))
QUANTIZED = dict(input_bits=8, weight_bits=1, activation="swiglu", shared_expert_dim=6)
ROUTERS = ("softmax", "xmoe", "torchscale-cosine")

CASES = {
    "N = R": Case(4),
    "N = R without momentum": Case(2, experts=2, momentum=0.0),
    "N > R": Case(2, experts=6),
    "N > R, three ranks": Case(3, experts=6),
    "N < R": Case(4, experts=2),
    "replicas asked for": Case(4, size=2),
    "replicas, uneven": Case(4, experts=2, **UNEVEN, pads=(0.0, 0.4, 0.0, 0.2)),
    "replicas, by capacity": Case(4, experts=2, layer=BY_CAPACITY, **UNEVEN),
    "P = 1 asked for": Case(2, size=1),
    "N and R coprime": Case(3, experts=4),
    "N and R share a factor": Case(4, experts=6),
    "two batches per update and rank": Case(2, batches=4),
    "two batches per update and rank, replicas": Case(4, experts=2, batches=8),
    **{f"K = {k}, H = {h}": Case(2, layer=dict(top_k=k, heads=h)) for k in (1, 2, 3) for h in (1, 3)},
    **{f"router {router}": Case(2, layer=dict(router=router, heads=3, top_k=2)) for router in ROUTERS},
    "swiglu, SubLN, shared expert, residual": Case(
        2, layer=dict(activation="swiglu", subln=True, shared_expert_dim=6, residual=True, heads=2)
    ),
    "gates normalised before": Case(2, layer=dict(top_k=2, normalize_gates="before")),
    "gates normalised after dropping": Case(2, layer=dict(top_k=2, normalize_gates="after", **CAPACITY)),
    "padding": Case(2, pads=(0.5, 0.2)),
    "padding, by capacity": Case(2, pads=(0.5, 0.2), layer=BY_CAPACITY),
    "uneven batches": Case(4, **UNEVEN),
    "uneven batches, by capacity": Case(3, experts=3, layer=BY_CAPACITY, **UNEVEN),
    "a rank with pads only": Case(2, pads=(0.2, 1.0), layer=dict(top_k=2, heads=3)),
    "a rank with pads only, by capacity": Case(2, pads=(1.0, 0.2), layer=BY_CAPACITY),
    "a rank without rows": Case(2, shapes=((2, 5), (0, 5)), layer=dict(top_k=2)),
    "a rank without rows, by capacity": Case(2, shapes=((2, 5), (0, 4)), layer=BY_CAPACITY),
    "one rank alone has tokens": Case(4, pads=(1.0, 1.0, 0.0, 1.0)),
    "all tokens to one expert": Case(4, one_expert=True, layer=dict(heads=2)),
    "all tokens to one expert, by capacity": Case(2, one_expert=True, layer=dict(heads=2, **BY_CAPACITY)),
    "all tokens to one expert, replicas": Case(4, experts=2, one_expert=True, layer=dict(heads=2), **UNEVEN),
    "capacity drops": Case(3, experts=6, layer=dict(top_k=2, **CAPACITY), **UNEVEN),
    "capacity drops everything": Case(2, layer=dict(exchange="capacity", capacity_factor=0.5), shapes=((1, 3), (1, 4))),
    "capacity drops by priority": Case(2, layer=dict(top_k=2, batch_prioritized=True, **BY_CAPACITY), pads=(0.3,)),
    "pads routed": Case(2, layer=dict(padding="routed", **BY_CAPACITY), pads=(0.3,)),
    "pads counted": Case(2, layer=dict(padding="counted", **CAPACITY), pads=(0.3,), **UNEVEN),
    "activation checkpointing": Case(4, layer=dict(top_k=2, heads=3), recompute=True, **UNEVEN),
    "activation checkpointing, by capacity": Case(2, layer=BY_CAPACITY, recompute=True, pads=(0.2,)),
    "bmm": Case(2, layer=dict(backend="bmm", top_k=2, heads=3), pads=(0.3, 0.0), **UNEVEN),
    "bmm, by capacity": Case(2, layer=dict(backend="bmm", top_k=2, **BY_CAPACITY), pads=(0.3, 0.0), **UNEVEN),
    "pre-activations again": Case(2, layer=dict(recompute=True, top_k=2, heads=3, activation="swiglu"), **UNEVEN),
    "BitNet": Case(2, layer=dict(QUANTIZED, top_k=2, heads=3), pads=(0.3, 0.0), **UNEVEN),
    "BitNet, by capacity": Case(2, layer=dict(QUANTIZED, top_k=2, **BY_CAPACITY), recompute=True, **UNEVEN),
    "pre-activations and all else again": Case(2, layer=dict(recompute=True, top_k=2), recompute=True, **UNEVEN),
}
# torch's grouped matrix products know no float64
SINGLE = dict(dtype=torch.float32, experts=4)
BACKEND_CASES = {
    f"{name}, {exchange}": Case(2, layer=dict(backend=name, top_k=2, **rules), pads=(0.3, 0.0), **SINGLE, **UNEVEN)
    for name in available("loop", "grouped_mm")
    for exchange, rules in (("by counts", {}), ("by capacity", BY_CAPACITY))
}
GLOBAL = dict(balance_scope="global")
GLOBAL_CASES = {
    "global": Case(2, layer=dict(top_k=2, **GLOBAL), whole=True),
    "global, uneven": Case(4, layer=dict(heads=3, **GLOBAL), pads=(0.1, 0.5), whole=True, **UNEVEN),
    "global, replicas": Case(4, experts=2, layer=GLOBAL, whole=True, **UNEVEN),
    "global, a rank with pads only": Case(2, layer=GLOBAL, pads=(0.0, 1.0), whole=True),
    "global, a rank without rows": Case(2, layer=GLOBAL, shapes=((2, 5), (0, 5)), whole=True),
    "global, P = 1": Case(3, layer=GLOBAL, whole=True, **UNEVEN),
    "global, activation checkpointing": Case(2, layer=GLOBAL, recompute=True, whole=True, **UNEVEN),
}
FAULTS = {
    "no division": Case(2, fault="divisor"),
    "copies not added": Case(4, experts=2, fault="copies"),
    "experts not in the norm": Case(2, fault="norm"),
    "balance of each rank taken for all": Case(2, whole=True, **UNEVEN),
}
ALL = {**CASES, **BACKEND_CASES, **GLOBAL_CASES, **FAULTS}


@pytest.fixture(scope="module")
def in_ranks():
    """in_ranks(name) -> what each rank of that case saw; all cases of a number of ranks run in one job."""
    done = {}

    def results(name):
        ranks = ALL[name].ranks
        if ranks not in done:
            cases = {key: case for key, case in ALL.items() if case.ranks == ranks}
            done[ranks] = python_ranks(harness.train_all, ranks, (cases,), seconds=280)
        return [rank[name] for rank in done[ranks]]

    return results


@pytest.mark.parametrize("name", CASES)
def test_ranks_train_as_one_process(in_ranks, name):
    assert_equal_training(in_ranks(name), train(CASES[name]))


@pytest.mark.parametrize("name", BACKEND_CASES)
def test_both_back_ends_in_float32(in_ranks, name):
    assert_equal_training(in_ranks(name), train(BACKEND_CASES[name]), tolerance=2e-4)


@pytest.mark.parametrize("name", GLOBAL_CASES)
def test_scope_global_makes_any_split_equal(in_ranks, name):
    ranks, one = in_ranks(name), train(GLOBAL_CASES[name])
    assert_equal_updates(ranks, one)
    for update in range(UPDATES):
        nll = sum(ran.losses[update][0] for ran in ranks)
        torch.testing.assert_close(nll, one.losses[update][0], rtol=1e-9, atol=1e-9)
        for ran in ranks:  # one balance loss and one z-loss for all
            torch.testing.assert_close(ran.losses[update][1:], one.losses[update][1:], rtol=1e-9, atol=1e-9)
        stats = sum(ran.stats[update] for ran in ranks)
        torch.testing.assert_close(stats, one.stats[update])


def assert_equal_updates(ranks, one):
    for section in ("gradients", "weights"):
        torch.testing.assert_close(gathered(ranks, section), getattr(one, section), rtol=1e-9, atol=1e-9)
    for ran in ranks:
        torch.testing.assert_close(ran.norms, one.norms, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FAULTS)
def test_a_mistake_in_the_reduction_is_noticed(in_ranks, name):
    with pytest.raises(AssertionError, match="not close"):
        assert_equal_updates(in_ranks(name), train(FAULTS[name]))


@pytest.mark.parametrize("name", [*CASES, *GLOBAL_CASES])
def test_all_ranks_have_one_norm_and_copies_are_bit_identical(in_ranks, name):
    ranks = in_ranks(name)
    size = ranks[0].place[1]
    for rank, ran in enumerate(ranks):
        assert ran.place == (rank % size, size)
        assert torch.equal(ran.norms, ranks[0].norms)
        holder = ranks[rank % size]
        for parameter, weights in ran.weights.items():
            other = holder if parameter in ran.experts else ranks[0]
            assert torch.equal(weights, other.weights[parameter]), parameter


@pytest.mark.parametrize("name, size", [("N = R", 4), ("N < R", 2), ("N and R coprime", 1), ("replicas asked for", 2)])
def test_experts_are_spread(in_ranks, name, size):
    ranks, case = in_ranks(name), CASES[name]
    for ran in ranks:
        assert ran.place[1] == size
        assert bool(ran.experts) == (size > 1)
        assert ran.weights["layers.0.experts.w_in"].shape[0] == case.experts // size
