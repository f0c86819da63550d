"""Masks of text: exact numbers, 80/10/10, special symbols left alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.data.text_masking import mask_text, masked_tokens

BOS, PAD, EOS, UNK, FIRST, END, MASK = 0, 1, 2, 3, 4, 50, 50
texts = st.lists(st.integers(0, END - 1), max_size=40).map(lambda tokens: np.array(tokens, dtype=np.int64))


def mask(tokens, ratio, seed=0):
    return mask_text(np.random.default_rng(seed), tokens, ratio, (FIRST, END), MASK)


@given(tokens=texts, ratio=st.floats(0, 1), seed=st.integers(0, 1 << 40))
def test_an_exact_number_of_real_tokens_is_chosen(tokens, ratio, seed):
    before = tokens.copy()
    masked, positions = mask(tokens, ratio, seed)
    real = int((tokens >= FIRST).sum())
    assert len(positions) == (0 if ratio == 0 else min(real, max(1, round(ratio * real))))
    assert (np.diff(positions) > 0).all()
    assert (tokens[positions] >= FIRST).all(), "a special symbol was chosen"
    assert (tokens == before).all(), "the text itself was changed"
    others = np.setdiff1d(np.arange(len(tokens)), positions)
    assert (masked[others] == tokens[others]).all()
    assert ((masked[positions] >= FIRST) & (masked[positions] <= MASK)).all()


@pytest.mark.parametrize("real, ratio, count", [(20, 0.15, 3), (3, 0.15, 1), (0, 0.5, 0), (5, 0, 0), (62, 0.5, 31)])
def test_short_texts_have_a_target(real, ratio, count):
    assert masked_tokens(real, ratio) == count


def test_of_the_chosen_80_percent_are_masked_and_10_replaced():
    tokens = np.full(20000, 7)
    masked, positions = mask(tokens, 0.5)
    share = np.bincount(masked[positions], minlength=MASK + 1) / len(positions)
    assert share[MASK] == pytest.approx(0.8, abs=0.02)
    assert share[7] == pytest.approx(0.1 + 0.1 / (END - FIRST), abs=0.01)
    assert share[:FIRST].sum() == 0
    others = np.delete(share[FIRST:END], 7 - FIRST)
    assert others.sum() == pytest.approx(0.1, abs=0.01)
    assert others.min() > 0, "some symbol is never taken"


def test_every_position_is_chosen_as_often():
    tokens = np.array([BOS, 9, 8, UNK, 7, EOS, 6, EOS])
    counts = np.zeros(len(tokens))
    for seed in range(800):
        counts[mask(tokens, 0.5, seed)[1]] += 1
    assert counts[[0, 3, 5, 7]].sum() == 0
    assert (abs(counts[[1, 2, 4, 6]] / 800 - 0.5) < 0.06).all()


def test_masks_depend_on_the_generator_alone():
    tokens = np.arange(FIRST, END)
    first, again, other = mask(tokens, 0.3, 1), mask(tokens, 0.3, 1), mask(tokens, 0.3, 2)
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    assert (first[1] != other[1]).any()
