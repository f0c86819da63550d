"""What is said about made-up streams of routing statistics. Layers 1 and 3 unless said otherwise."""

import logging
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_mhmoe.criterions.routing_watch import ENOUGH, RoutingWatch, ranges

WARNING, INFO = logging.WARNING, logging.INFO


def step(load, entropy=0.5, top_k=1):
    """Statistics [L, N + 3] of one update in which every layer gave its experts these choices [L, N]; nats."""
    load = np.atleast_2d(np.array(load, dtype=float))
    sub_tokens = load.sum(1) / top_k
    return np.column_stack([load, sub_tokens, np.zeros(len(load)), sub_tokens * entropy])


def say(steps, window=10, layers=(1, 3), start=0, already=0.0, every_update=True, **options):
    """[(update, level, text)] that is said while these updates go by."""
    steps = list(steps)
    sums = np.full_like(steps[0], already)
    watch, told = RoutingWatch(layers, sums, start, window, **options), []
    for update, seen in enumerate(steps, start=start + 1):
        sums = sums + seen
        if every_update or watch.due(update):
            told += [(update, *finding) for finding in watch.observe(update, sums)]
    return told


def even(num_experts=4, choices=1000):
    return np.full((2, num_experts), choices)


def without(expert, place=0, **sizes):
    load = even(**sizes)
    load[place, expert] = 0
    return load


def test_an_even_load_is_nothing_to_talk_about():
    assert say([step(even())] * 200) == []


@pytest.mark.parametrize("every_update", [True, False])
def test_a_dead_expert_is_told_once_after_a_window(every_update):
    steps = [step(even())] * 20 + [step(without(2))] * 80
    [(update, level, text)] = say(steps, every_update=every_update)
    assert (update, level) == (30, WARNING)
    assert text.startswith("experts without a single choice in the last 10 updates, in which an even load gives each ")
    assert "layer 1: expert 2. " in text and "layer 3" not in text


def test_an_expert_that_comes_back_is_told_and_may_die_again():
    steps = [step(without(2))] * 15 + [step(even())] * 15 + [step(without(2))] * 15
    told = say(steps)
    assert [(update, level) for update, level, _ in told] == [(10, WARNING), (16, INFO), (40, WARNING)]
    assert told[1][2] == "experts that are chosen again: layer 1: expert 2"


def test_a_single_choice_is_no_recovery():
    once = without(2)
    once[0, 2] = 1
    steps = ([step(without(2))] * 11 + [step(once)]) * 8
    assert [level for _, level, _ in say(steps)] == [WARNING]


def test_several_dead_experts_are_one_message():
    load = even(num_experts=12)
    load[0, [0, 3, 4, 5]] = load[1, 11] = 0
    [(_, _, text)] = say([step(load)] * 12)
    assert ": layer 1: experts 0, 3-5; layer 3: expert 11. " in text


def test_long_lists_are_cut():
    load = np.zeros((2, 64))
    load[:, ::2] = 10_000
    text = say([step(load)] * 12)[0][2]
    assert "29, 31 and 16 more; layer 3" in text


@given(st.integers(1, 400), st.sampled_from([4, 16]))
def test_tiny_batches_lengthen_the_window_until_an_even_load_gives_enough(choices, num_experts):
    steps = [step(without(1, num_experts=num_experts, choices=choices))] * (4 * math.ceil(ENOUGH / choices) + 30)
    told = say(steps, every_update=False)
    [(update, _, text)] = told
    window = int(re.search(r"in the last (\d+) updates", text)[1])
    assert window * choices * (num_experts - 1) / num_experts >= ENOUGH
    assert window <= update <= max(15, 4 * ENOUGH / choices)


@settings(max_examples=25)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([4, 8, 32]),
    st.floats(0.1, 1.0),
    st.integers(40, 3000),
)
def test_experts_that_are_rarely_chosen_by_chance_are_not_dead(seed, num_experts, rarest, choices):
    """Shares between a tenth of an even load and even, in batches so small that many leave experts without choices."""
    rng = np.random.default_rng(seed)
    shares = rng.uniform(rarest, 1, (2, num_experts))
    shares /= shares.sum(1, keepdims=True)
    steps = [step([rng.multinomial(choices, row) for row in shares]) for _ in range(60)]
    assert say(steps, every_update=False) == []


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(20, 60))
def test_exactly_the_experts_without_choices_are_told(seed, num_dead, start):
    rng = np.random.default_rng(seed)
    dead = np.sort(rng.choice(16, num_dead, replace=False))
    shares = rng.uniform(0.3, 1, 16)
    shares[dead] = 0
    steps = [step(even(16))] * start + [
        step([rng.multinomial(16_000, shares / shares.sum()), np.full(16, 1000)]) for _ in range(40)
    ]
    [(update, level, text)] = say(steps)
    assert (update, level) == (start + 10, WARNING)
    assert f"layer 1: expert{'s' if num_dead > 1 else ''} {ranges(dead)}. " in text


def loads_of(collapsed, top_k, num_experts):
    """Every sub-token takes the first K experts, or all experts evenly."""
    load = np.zeros(num_experts)
    load[: top_k if collapsed else num_experts] = 10_000
    return [load, np.full(num_experts, load.sum() / num_experts)]


@given(st.integers(2, 64).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))))
def test_a_full_collapse_is_told_for_any_sizes(sizes):
    num_experts, top_k = sizes
    told = say([step(loads_of(True, top_k, num_experts), top_k=top_k)] * 40)
    collapse = [text for _, _, text in told if "collapsed" in text]
    assert len(collapse) == 1 and "the router of layer 1 has collapsed" in collapse[0]
    assert "chosen by 100% of the sub-tokens" in collapse[0]
    assert f"the load was that of {top_k:.1f} of {num_experts} experts" in collapse[0]


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(4, 64).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n // 4))))
def test_a_load_half_as_large_for_some_experts_is_no_collapse(seed, sizes):
    num_experts, top_k = sizes
    load = np.random.default_rng(seed).uniform(500, 1000, (2, num_experts))
    assert say([step(load, top_k=top_k)] * 12) == []


def test_one_expert_in_all_choices_is_a_collapse_even_if_the_others_share_the_rest():
    """K = 2: all sub-tokens choose expert 0, and the second choice is even."""
    load = [[7000, *[1000] * 7], [1750] * 8]
    [(_, level, text)] = say([step(load, top_k=2)] * 30)
    assert level == WARNING and "expert 0 was chosen by 100% of the sub-tokens (25% when even)" in text


def test_a_collapse_has_one_beginning_and_one_end_though_it_wavers():
    """Expert 0 takes 60 %, then wavers around the half, then 20 %."""

    def taken(share):
        rest = (1 - share) / 7
        return step([[10_000 * share, *[10_000 * rest] * 7]] * 2)

    steps = [taken(0.65)] * 20 + [taken(0.55), taken(0.58)] * 30 + [taken(0.2)] * 30
    told = say(steps, layers=(1, 3))
    assert [level for _, level, _ in told] == [WARNING, WARNING, INFO, INFO]
    assert told[-1][2] == "the router of layer 3 spreads its load again"
    assert told[0][0] == 10 and told[2][0] > 80


def test_where_every_expert_is_always_chosen_nothing_can_be_wrong():
    assert say([step(even(4), entropy=math.log(4), top_k=4)] * 500) == []
    assert say([step([[1000], [1000]], entropy=0.0)] * 500) == []


@pytest.mark.parametrize("weight, advice", [(0.0, "--moe-gate-loss-wt 0.01 (now 0)"), (0.02, "(now 0.02)")])
def test_the_advice_knows_the_weights(weight, advice):
    told = say([step(loads_of(True, 1, 8), entropy=0.01)] * 12, gate_weight=weight)
    assert len(told) == 2 and all(advice in text and "docs/troubleshooting.md" in text for _, _, text in told)
    assert "--moe-z-loss-wt" not in told[0][2] and "--moe-z-loss-wt 0.001 (now 0)" in told[1][2]


def uniform(missing):
    return step(even(8), entropy=math.log(8) - missing)


def test_a_gate_that_stays_uniform_is_told_once_after_ten_windows_past_the_warm_up():
    told = say([uniform(0.0005)] * 400, warmup=95)
    assert [(update, level) for update, level, _ in told] == [(195, WARNING)] * 2
    assert "the router of layer 1 has preferred no expert for 100 updates" in told[0][2]


def test_a_gate_that_learns_in_time_is_not_told():
    assert say([uniform(0.0)] * 80 + [uniform(0.01)] * 400) == []


def test_a_gate_that_learns_late_is_told_to_have_learnt():
    told = say([uniform(0.0)] * 150 + [uniform(0.1)] * 100)
    assert [level for _, level, _ in told] == [WARNING, WARNING, INFO, INFO]
    assert told[-1][2] == "the router of layer 3 prefers experts now"


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0, 1e6))
def test_what_was_before_a_resume_does_not_count(start, already):
    steps = [step(even())] * 5 + [step(without(0))] * 30
    fresh, resumed = say(steps), say(steps, start=start, already=math.floor(already))
    assert [(update - start, level) for update, level, _ in resumed] == [(update, level) for update, level, _ in fresh]


def test_a_layer_without_any_choice_is_waited_for():
    assert say([step(np.zeros((2, 4)))] * 100) == []


@given(st.permutations(range(8)))
def test_the_order_of_experts_does_not_matter(order):
    load = np.array([[0, 100, 9000, 50, 1000, 1200, 800, 700], [1000] * 8])
    texts = [[text.split(" in the last ")[0] for _, _, text in say([step(row)] * 12)] for row in (load, load[:, order])]
    assert texts[0] == texts[1] and len(texts[0]) == 2


def test_runs_of_numbers():
    assert ranges(np.array([0, 2, 3, 4, 9, 10])) == "0, 2-4, 9-10"
