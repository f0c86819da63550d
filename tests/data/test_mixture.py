"""Shares of sources, and which samples an epoch gets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_mhmoe.data.mixture import (
    Mixture,
    parse_weights,
    samples_per_epoch,
    shares_by_alpha,
    shares_by_weight,
)


def test_alpha_lifts_small_sources():
    # 100^0.5 : 1^0.5
    assert shares_by_alpha([100, 1], 0.5) == pytest.approx([10 / 11, 1 / 11])
    assert shares_by_alpha([100, 1], 0.0) == pytest.approx([1 / 2, 1 / 2])
    assert shares_by_alpha([3, 1], 1.0) == pytest.approx([3 / 4, 1 / 4])


def test_weights_become_shares_in_the_sources_order():
    weights = parse_weights("en=3, de = 0.5,fr=0.5")
    assert shares_by_weight(["de", "en", "fr"], weights, "--source-weights") == pytest.approx([1 / 8, 6 / 8, 1 / 8])


@pytest.mark.parametrize("text", ["", "en", "en=", "=1", "en=0", "en=-1", "en=nan", "en=inf", "en=1,,de=1"])
def test_what_is_no_weight_is_an_error(text):
    with pytest.raises(ValueError, match="--source-weights: .* is no NAME=WEIGHT"):
        parse_weights(text)


def test_a_source_named_twice_is_an_error():
    with pytest.raises(ValueError, match="--source-weights names 'en' twice"):
        parse_weights("en=1,en=2")


def test_a_source_without_a_weight_is_an_error():
    with pytest.raises(ValueError, match="the manifest: no weight for de; name every source in --source-weights"):
        shares_by_weight(["en", "de"], {"en": 1.0, "de": None}, "the manifest")


@settings(max_examples=30)
@given(weights=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8), total=st.integers(8, 1000))
def test_an_epoch_has_as_many_samples_as_the_sources(weights, total):
    shares = np.array(weights) / np.sum(weights)
    counts = samples_per_epoch(shares, total)
    assert counts.sum() == total and counts.min() >= 1
    # rounding moves one, and sources that would get none take one each from the largest
    assert np.abs(counts - shares * total).max() <= len(weights)


def test_counts_are_rounded_shares():
    assert samples_per_epoch(np.array([0.5, 0.25, 0.25]), 10).tolist() == [5, 3, 2]


def taken(mixture, epochs, source):
    start = sum(mixture.lengths[:source])
    numbers = np.concatenate([mixture.samples(epoch) for epoch in epochs]) - start
    return numbers[(numbers >= 0) & (numbers < mixture.lengths[source])].tolist()


@pytest.mark.parametrize("shares", [[0.2, 0.8], [0.75, 0.25], [0.9, 0.1]])
def test_no_sample_comes_again_before_all_have_come(shares):
    mixture = Mixture(["en", "de"], [30, 7], np.array(shares), seed=3)
    for source, length in enumerate(mixture.lengths):
        numbers = taken(mixture, range(1, 12), source)
        assert len(numbers) == 11 * mixture.counts[source]
        for start in range(0, len(numbers), length):
            part = numbers[start : start + length]
            assert len(set(part)) == len(part)


def test_every_epoch_can_be_formed_alone_and_seeds_differ():
    def make(seed):
        return Mixture(["en", "de"], [30, 7], np.array([0.5, 0.5]), seed)

    first = make(3)
    list(map(first.samples, (1, 2, 3)))
    assert make(3).samples(4).tolist() == first.samples(4).tolist() != make(4).samples(4).tolist()


def test_a_sources_order_does_not_depend_on_its_place():
    mixture = Mixture(["en", "de"], [30, 30], np.array([0.5, 0.5]), seed=3)
    turned = Mixture(["de", "en"], [30, 30], np.array([0.5, 0.5]), seed=3)
    assert taken(mixture, [1], 0) == taken(turned, [1], 1) != taken(mixture, [1], 1)


def test_a_source_of_weight_0_is_not_drawn():
    shares = shares_by_weight(["en", "de"], {"en": 2.0, "de": 0.0}, "the manifest")
    drawn = Mixture(["en", "de"], [3, 2], shares, seed=1).samples(1)
    assert len(drawn) == 5 and set(drawn.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("weights", [(0.0, 0.0), (1.0, -1.0), (1.0, float("nan"))])
def test_weights_that_make_no_shares_are_an_error(weights):
    with pytest.raises(ValueError, match="the manifest: expected weights of 0 or more, and one above 0"):
        shares_by_weight(["en", "de"], dict(zip(["en", "de"], weights, strict=True)), "the manifest")
