"""Perplexity and the bootstrap interval against numbers worked out by hand."""

import math

import numpy as np
import pytest

from fairseq_mhmoe.evaluation.perplexity import perplexity, perplexity_interval


def test_perplexity_of_a_uniform_guess_is_the_vocabulary():
    assert perplexity(5 * math.log(8), 5) == pytest.approx(8)


def test_perplexity_needs_a_token():
    with pytest.raises(ValueError, match="tokens is 0"):
        perplexity(1.0, 0)


def test_interval_of_equal_documents_is_a_point():
    low, high = perplexity_interval([2.0, 4.0, 6.0], [1, 2, 3])
    assert low == pytest.approx(math.exp(2)) and high == pytest.approx(math.exp(2))


def test_interval_of_two_documents_has_three_possible_values():
    # Drawn: both the first (25 %), one of each (50 %), both the second (25 %); so 95 % reaches both ends.
    low, high = perplexity_interval([1.0, 3.0], [1, 1])
    assert (low, high) == (pytest.approx(math.exp(1)), pytest.approx(math.exp(3)))
    # The middle 40 % is one of each.
    assert perplexity_interval([1.0, 3.0], [1, 1], confidence=0.4) == (pytest.approx(math.exp(2)),) * 2


def test_long_documents_weigh_by_their_tokens():
    # One of each: (1 + 9) nats over (1 + 3) tokens.
    assert perplexity_interval([1.0, 9.0], [1, 3], confidence=0.4)[0] == pytest.approx(math.exp(2.5))


def test_interval_is_that_of_the_normal_approximation_for_many_documents():
    rng = np.random.default_rng(0)
    nll = rng.normal(100.0, 10.0, size=400)
    low, high = perplexity_interval(nll, np.full(400, 50))
    mean, error = nll.mean() / 50, 1.96 * nll.std() / 50 / math.sqrt(400)
    assert math.log(low) == pytest.approx(mean - error, abs=0.1 * error)
    assert math.log(high) == pytest.approx(mean + error, abs=0.1 * error)


def test_interval_is_the_same_every_time():
    assert perplexity_interval([1.0, 2.0, 4.0], [1, 1, 1]) == perplexity_interval([1.0, 2.0, 4.0], [1, 1, 1])


@pytest.mark.parametrize("nll, tokens", [([], []), ([1.0], [1, 2]), ([[1.0]], [[1]])])
def test_interval_needs_one_entry_a_document(nll, tokens):
    with pytest.raises(ValueError, match="expected one entry a document"):
        perplexity_interval(nll, tokens)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_is_a_share(confidence):
    with pytest.raises(ValueError, match=f"confidence is {confidence}"):
        perplexity_interval([1.0], [1], confidence)
