"""Means, standard errors and verdicts: by hand, by tables of Student's t, and by what must always hold."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.cli.reproduce_statistics import (
    AHEAD,
    BEHIND,
    UNDECIDED,
    judge,
    mean_of,
    order_sentence,
    paper_word,
    t_quantile,
    t_within,
)

NAMES = {"a": "A", "b": "B", "c": "C"}
losses = st.lists(st.integers(300, 700).map(lambda n: n / 100), min_size=2, max_size=6)


def test_mean_and_standard_error_by_hand():
    found = mean_of([1.0, 2.0, 6.0])  # deviations -2, -1, 3: variance 14 / 2
    assert (found.mean, found.standard_error, found.count) == (3.0, pytest.approx(math.sqrt(7 / 3)), 3)


def test_one_seed_has_no_standard_error():
    assert mean_of([5.0]).standard_error is None


@pytest.mark.parametrize(
    "degrees, printed", [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (10, 2.228), (30, 2.042)]
)
def test_quantiles_are_those_of_printed_tables(degrees, printed):
    assert t_quantile(degrees) == pytest.approx(printed, abs=6e-4)
    assert t_within(t_quantile(degrees), degrees) == pytest.approx(0.95)


def test_other_confidence():
    assert t_quantile(4, 0.99) == pytest.approx(4.604, abs=6e-4)


def test_pairs_take_out_what_seeds_share():
    # seeds differ by far more than models do; the differences -0.02, -0.03, -0.025 do not
    nll = {"a": {1: 4.98, 2: 5.47, 3: 5.975}, "b": {1: 5.0, 2: 5.5, 3: 6.0}}
    found = judge("a", "b", nll)
    assert (found.word, found.seeds) == (AHEAD, 3)
    assert found.difference == pytest.approx(-0.025)
    assert found.standard_error == pytest.approx(0.005 / math.sqrt(3))
    assert found.t == pytest.approx(-0.025 / (0.005 / math.sqrt(3)))
    assert found.ratio == pytest.approx(math.exp(-0.025))


def test_three_seeds_need_more_than_four_standard_errors():
    def word(distance):  # mean distance, standard error 1 / sqrt(3)
        return judge("a", "b", {"a": {1: distance - 1, 2: distance, 3: distance + 1}, "b": {1: 0, 2: 0, 3: 0}}).word

    edge = t_quantile(2) / math.sqrt(3)
    assert [word(edge - 0.01), word(edge + 0.01), word(-edge - 0.01)] == [UNDECIDED, BEHIND, AHEAD]


def test_a_single_seed_tells_nothing():
    found = judge("a", "b", {"a": {1: 1.0}, "b": {1: 2.0}})
    assert (found.word, found.standard_error, found.t, found.needed) == (UNDECIDED, None, None, None)


def test_only_common_seeds_count():
    found = judge("a", "b", {"a": {1: 1.0, 2: 1.1}, "b": {2: 2.0, 3: 9.0}})
    assert (found.seeds, found.difference) == (1, pytest.approx(-0.9))
    with pytest.raises(ValueError, match="no seed in common"):
        judge("a", "b", {"a": {1: 1.0}, "b": {2: 1.0}})


@given(losses, losses, st.floats(-2, 2))
def test_verdicts_are_turned_round_and_do_not_care_for_what_both_share(first, second, shift):
    count = min(len(first), len(second))
    a, b = dict(enumerate(first[:count])), dict(enumerate(second[:count]))
    found, turned = judge("a", "b", {"a": a, "b": b}), judge("b", "a", {"a": a, "b": b})
    assert turned.word == {AHEAD: BEHIND, BEHIND: AHEAD, UNDECIDED: UNDECIDED}[found.word]
    assert turned.difference == -found.difference
    moved = {name: {seed: v + shift for seed, v in of.items()} for name, of in (("a", a), ("b", b))}
    assert judge("a", "b", moved).difference == pytest.approx(found.difference, abs=1e-9)


@given(losses)
def test_a_model_is_not_told_apart_from_itself(values):
    nll = dict(enumerate(values))
    found = judge("a", "b", {"a": nll, "b": nll})
    assert (found.word, found.difference) == (UNDECIDED, 0.0)


@given(st.integers(2, 20), st.floats(0.1, 5))
def test_a_constant_gap_is_told(count, gap):
    values = {seed: float(seed) for seed in range(count)}
    shifted = {seed: value - gap for seed, value in values.items()}
    assert judge("a", "b", {"a": shifted, "b": values}).word == AHEAD


def test_words_of_a_paper():
    assert [paper_word(12.7, 14.8), paper_word(14.8, 12.7), paper_word(1.0, 1.0)] == [AHEAD, BEHIND, UNDECIDED]
    assert paper_word(None, 1.0) is None


def verdicts(*words, paper=AHEAD):
    """Of pairs a b, b c, ...: made from losses that give these words."""
    gaps = {AHEAD: (-1.0, -1.1), BEHIND: (1.0, 1.1), UNDECIDED: (1.0, -1.0)}
    found = []
    for (first, second), word in zip([("a", "b"), ("b", "c"), ("a", "c")], words):
        nll = {first: dict(enumerate(gaps[word])), second: {0: 0.0, 1: 0.0}}
        found.append(judge(first, second, nll, paper))
        assert found[-1].word == word
    return found


def test_the_order_appears_only_if_all_agree():
    assert order_sentence(verdicts(AHEAD, AHEAD), NAMES).startswith("The paper's order appears: all 2")


def test_what_speaks_against_the_order_is_named():
    said = order_sentence(verdicts(AHEAD, BEHIND, UNDECIDED), NAMES)
    assert said == (
        "The paper's order does not appear: 1 of 3 comparisons agree with the paper (1 not told apart); "
        "against it: B is behind C."
    )


def test_what_is_open_is_named():
    said = order_sentence(verdicts(AHEAD, UNDECIDED), NAMES)
    assert said == (
        "The paper's order is neither confirmed nor refuted: 1 of 2 comparisons agree with the paper; "
        "B is not told apart from C."
    )


def test_without_figures_of_the_paper_there_is_no_order():
    assert order_sentence(verdicts(AHEAD, paper=None), NAMES).startswith("The paper has no figures")
