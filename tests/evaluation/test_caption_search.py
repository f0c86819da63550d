"""Beam search over captions against all captions there are."""

import itertools
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from fairseq_mhmoe.evaluation.caption_search import Beam, Symbols, beam_search

BOS, PAD, EOS, WORDS = 0, 1, 2, (3, 4, 5)
SYMBOLS = Symbols(BOS, EOS, never=(BOS, PAD))
SIZE = 6


class Tables:
    """A language model whose log-probabilities, for each image, are drawn by the whole beginning."""

    def __init__(self, seed, sharpness=2.0):
        self.seed, self.sharpness = seed, sharpness
        self.rows = 0

    def of(self, image, text):
        generator = torch.Generator().manual_seed(hash((self.seed, image, *text)) % 2**31)
        return torch.log_softmax(self.sharpness * torch.randn(SIZE, generator=generator), dim=0)

    def __call__(self, images, texts):
        self.rows += len(images)
        assert texts[:, 0].eq(BOS).all()
        return torch.stack([self.of(image, text) for image, text in zip(images.tolist(), texts.tolist(), strict=True)])


def all_captions(model, image, beam):
    """(score, tokens) of every caption that is not too long."""
    for length in range(beam.longest + 1):
        for tokens in itertools.product(WORDS, repeat=length):
            total = 0.0
            for place, symbol in enumerate([*tokens, EOS]):
                total += float(model.of(image, [BOS, *tokens[:place]])[symbol])
            yield total / (length + 2) ** beam.length_penalty, list(tokens)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("longest", [1, 3])
def test_a_large_beam_finds_the_best_of_all_captions(penalty, longest):
    beam = Beam(width=3**3 + 3**2 + 3 + 1, longest=longest, length_penalty=penalty)
    model = Tables(seed=1, sharpness=0.5)
    found = beam_search(model, 6, beam, SYMBOLS)
    lengths = set()
    for image, caption in enumerate(found):
        score, tokens = max(all_captions(model, image, beam))
        assert caption.tokens == tokens
        assert math.isclose(caption.score, score, rel_tol=1e-5)
        lengths.add(len(tokens))
    assert penalty == 0 or longest == 1 or len(lengths) > 1


@given(st.integers(0, 10**6), st.integers(1, 5))
def test_a_beam_of_one_takes_the_likeliest_symbol(seed, longest):
    model = Tables(seed)
    [caption] = beam_search(model, 1, Beam(width=1, longest=longest), SYMBOLS)
    tokens = []
    while len(tokens) < longest:
        log_probs = model.of(0, [BOS, *tokens])
        log_probs[[BOS, PAD]] = -math.inf
        symbol = int(log_probs.argmax())
        if symbol == EOS:
            break
        tokens.append(symbol)
    assert caption.tokens == tokens


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.0, 0.6, 1.5]))
def test_images_do_not_change_each_others_captions(seed, width, longest, penalty):
    model, beam = Tables(seed), Beam(width, longest, penalty)
    together = beam_search(model, 4, beam, SYMBOLS)
    for image, caption in enumerate(together):
        [alone] = beam_search(lambda images, texts, i=image: model(images + i, texts), 1, beam, SYMBOLS)
        assert alone == caption


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_scores_are_those_of_the_captions(seed, width):
    model, beam = Tables(seed), Beam(width, longest=4)
    [caption] = beam_search(model, 1, beam, SYMBOLS)
    total = sum(
        float(model.of(0, [BOS, *caption.tokens[:place]])[symbol])
        for place, symbol in enumerate([*caption.tokens, EOS])
    )
    assert math.isclose(caption.score, total / (len(caption.tokens) + 2) ** 0.6, rel_tol=1e-5)
    assert set(caption.tokens) <= set(WORDS) and len(caption.tokens) <= 4


def test_images_that_are_done_cost_nothing_more():
    log_probs = torch.full((2, SIZE), -9.0)
    log_probs[0, EOS], log_probs[1, 3] = 0.0, 0.0
    rows = []

    def model(images, texts):
        rows.append(images.tolist())
        return log_probs[images]

    first, second = beam_search(model, 2, Beam(width=1, longest=3), SYMBOLS)
    assert (first.tokens, second.tokens) == ([], [3, 3, 3])
    assert rows == [[0, 1], [1], [1], [1]]


def test_a_longer_caption_needs_a_length_penalty():
    # ending at once: 0.4; one word, then the end for sure: 0.35
    def model(images, texts):
        ended, going = [0.0, 0.0, 0.4, 0.35, 0.25, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
        return torch.tensor([ended if texts.size(1) == 1 else going] * len(images)).log()

    def search(penalty):
        return beam_search(model, 1, Beam(3, 3, penalty), SYMBOLS)[0].tokens

    assert search(0.0) == [] and search(1.0) == [3]


def test_no_numbers_are_told():
    with pytest.raises(ValueError, match="NaN"):
        beam_search(lambda images, texts: torch.full((len(images), SIZE), math.nan), 1, Beam(), SYMBOLS)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"width": 0}, "--beam 0"),
        ({"longest": 0}, "--max-length 0"),
        ({"length_penalty": math.nan}, "--length-pen"),
    ],
)
def test_options_that_can_not_be(options, words):
    with pytest.raises(ValueError, match=words):
        Beam(**options)
