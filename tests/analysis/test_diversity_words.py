"""Words of a list against the rest, by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.analysis.diversity import Sizes
from fairseq_mhmoe.analysis.diversity_words import (
    MOST_BINS,
    Bins,
    Sums,
    WordTally,
    clustered_mean,
    compared,
    extremes,
    judged,
    matched,
)
from fairseq_mhmoe.analysis.word_lists import WordList

SIZES = Sizes(experts=8, heads=2, top_k=2, blocks=(1, 3))


def sums_of(values, pieces=1):
    found = Sums()
    for value in values:
        found.add(value, value / 2, pieces)
    return found


def word_list(name, *words):
    return WordList(name, Path(f"{name}.txt"), frozenset(words))


def test_bins_have_possible_values_in_their_middles():
    bins = Bins.of(SIZES)  # 1 .. 4 in steps of a half
    assert bins.edges() == pytest.approx([0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4.25])
    assert [bins.place(value) for value in (1.0, 1.5, 2.0, 4.0)] == [0, 1, 2, 6]
    # the mean of two pieces may lie on a border, and then goes up
    assert bins.place(1.25) == 1 and bins.place(1.75) == 2


@given(st.integers(1, 300), st.integers(1, 24), st.integers(2, 8), st.data())
def test_every_possible_value_has_a_bin(experts, layers, heads, data):
    sizes = Sizes(experts, heads, data.draw(st.integers(1, experts)), tuple(range(layers)))
    bins = Bins.of(sizes)
    edges = bins.edges()
    assert len(edges) - 1 == bins.number <= MOST_BINS
    value = data.draw(st.integers(layers, layers * sizes.largest)) / layers
    assert edges[bins.place(value)] - 1e-6 <= value < edges[bins.place(value) + 1]


def test_histogram_by_hand():
    tally = WordTally([word_list("first", "bank", "bar"), word_list("second", "bar")], Bins.of(SIZES))
    tally.add("bank", [(2.0, 1.0), (3.0, 2.0)])  # 2.5
    tally.add("bank", [(2.5, 1.0)])
    tally.add("bar", [(4.0, 1.5)])
    tally.add("the", [(1.0, 1.0)])
    tally.add("the", [(4.0, 1.0)])
    first, second = (tally.compare(each) for each in tally.lists)
    third = 1 / 3
    assert first["histogram"]["list"] == pytest.approx([0, 0, 0, 2 * third, 0, 0, third])
    assert second["histogram"]["list"] == pytest.approx([0, 0, 0, 0, 0, 0, 1])
    assert first["histogram"]["rest"] == second["histogram"]["rest"] == pytest.approx([0.5, 0, 0, 0, 0, 0, 0.5])
    assert (first["words"], first["words_matched"], first["occurrences"]) == (2, 2, 3)
    assert (first["rest_words"], first["rest_occurrences"]) == (1, 2)
    assert first["all_choices"]["mean"] == pytest.approx(3.0)  # (2.5 + 2.5 + 4) / 3
    assert first["first_choice"]["mean"] == pytest.approx((1.5 + 1.0 + 1.5) / 3)
    assert first["all_choices"]["difference"] == pytest.approx(0.5)
    assert first["all_choices"]["verdict"] == "too few words to tell"


def test_a_list_that_is_not_in_the_text():
    tally = WordTally([word_list("none", "bank")], Bins.of(SIZES))
    tally.add("the", [(1.0, 1.0)])
    found = tally.compare(tally.lists[0])
    assert found["words_matched"] == 0 and found["all_choices"]["mean"] is None
    assert found["matched"]["words"] == 0 and found["matched"]["verdict"] == "too few words to tell"
    assert sum(found["histogram"]["list"]) == 0


def test_standard_error_of_words_that_come_once_is_the_usual_one():
    values = np.array([1.0, 2.0, 4.0, 5.0])
    mean, error = clustered_mean(np.ones(4), values)
    assert mean == pytest.approx(3.0)
    assert error == pytest.approx(values.std(ddof=1) / 2)


def test_saying_a_word_again_adds_no_evidence():
    values = np.array([1.0, 2.0, 4.0, 5.0])
    assert clustered_mean(np.full(4, 50), 50 * values) == pytest.approx(clustered_mean(np.ones(4), values))


def test_standard_error_by_hand():
    # words of 2 and 1 occurrences with sums 4 and 5: mean 3, deviations -2 and 2, sqrt(2 / 1 * 8) / 3
    mean, error = clustered_mean(np.array([2.0, 1.0]), np.array([4.0, 5.0]))
    assert (mean, error) == pytest.approx((3.0, 4 / 3))


def test_difference_has_the_errors_of_both():
    found = compared([sums_of([1.0]), sums_of([3.0])], [sums_of([4.0]), sums_of([8.0])], "value")
    assert found["standard_error"] == pytest.approx(1.0) and found["rest_standard_error"] == pytest.approx(2.0)
    assert found["difference"] == pytest.approx(-4.0)
    assert found["standard_error_of_difference"] == pytest.approx(math.sqrt(5))
    assert found["verdict"] == "no difference shown"
    assert judged(3.0, 1.0)["verdict"] == "more experts than the rest"
    assert judged(-3.0, 1.0)["verdict"] == "fewer experts than the rest"


def test_matched_comparison_by_hand():
    # once each: list 3 and 5, rest 1 and 3, difference 2; 4 to 7 times: list 2, rest 2, 4, 3, difference -1
    inside = [sums_of([3.0]), sums_of([5.0]), sums_of([2.0] * 5)]
    rest = [sums_of([1.0]), sums_of([3.0]), *(sums_of([value] * 4) for value in (2.0, 4.0, 3.0))]
    found = matched(inside, rest)
    assert (found["groups"], found["words"], found["rest_words"]) == (2, 3, 5)
    assert found["difference"] == pytest.approx((2 * 2.0 - 1.0) / 3)
    # variances within: (2 + 2) / 2 and (0 + 2) / 2
    variance = (2 / 3) ** 2 * 2.0 * (1 / 2 + 1 / 2) + (1 / 3) ** 2 * 1.0 * (1 + 1 / 3)
    assert found["standard_error_of_difference"] == pytest.approx(math.sqrt(variance))


def test_words_without_counterpart_are_told():
    # two pieces, and twice: nothing of the rest is like them
    found = matched([sums_of([3.0], pieces=2), sums_of([2.0] * 2)], [sums_of([1.0]), sums_of([2.0])])
    assert (found["words"], found["words_without_counterpart"], found["difference"]) == (0, 2, None)


def test_frequent_words_make_a_difference_that_matching_takes_away():
    """Diversity that depends on frequency alone, and a list of frequent words."""
    generator = np.random.default_rng(1)

    def word(count):
        return sums_of(list(2 + math.log2(count) / 4 + generator.normal(0, 0.3, count)))

    inside = [word(int(count)) for count in generator.integers(8, 64, 60)]
    rest = [word(int(count)) for count in np.concatenate([np.ones(300), generator.integers(8, 64, 200)])]
    assert compared(inside, rest, "value")["difference"] > 0
    assert abs(matched(inside, rest)["ratio"]) < 2
    plain = np.mean([each.mean for each in inside]) - np.mean([each.mean for each in rest])
    assert plain > 0.5 > abs(matched(inside, rest)["difference"])


def test_extremes_have_enough_occurrences_and_do_not_overlap():
    entries = {"a": sums_of([9.0]), "b": sums_of([3.0, 3.0]), "c": sums_of([1.0, 2.0]), "d": sums_of([2.0] * 3)}
    found = extremes(entries.items(), min_count=2, number=5)
    assert found["enough"] == 3
    assert [row["text"] for row in found["top"]] == ["b"] and [row["text"] for row in found["bottom"]] == ["c"]
    assert found["bottom"][0] == {
        "text": "c",
        "count": 2,
        "mean": 1.5,
        "standard_error": pytest.approx(0.5),
        "mean_first_choice": 0.75,
    }
    assert extremes(entries.items(), min_count=4, number=5) == {"enough": 0, "top": [], "bottom": []}
