"""Perplexity and its uncertainty from summed negative log-likelihoods. M documents; sums in nats."""

import math

import numpy as np


def perplexity(nll: float, tokens: int) -> float:
    """exp(nll / tokens), what fairseq-eval-lm prints.

    Args:
        nll: negative log-likelihood summed over the tokens, nats.
        tokens: how many were scored, each document's end included.
    """
    if tokens <= 0:
        raise ValueError(f"tokens is {tokens}; a perplexity needs at least 1 scored token")
    return math.exp(nll / tokens)


def perplexity_interval(nll, tokens, confidence: float = 0.95, resamples: int = 2000, seed: int = 1):
    """Bootstrap interval of the perplexity over documents: whole documents are drawn again with replacement.

    Words of one document are alike, so an interval over tokens would be too narrow.

    Args:
        nll: [M] negative log-likelihood of each document, nats.
        tokens: [M] scored tokens of each document.
        confidence: share of the resampled perplexities inside the interval.
        resamples, seed: how many are drawn, and from which random numbers.
    Returns:
        (low, high); both equal the perplexity when there is one document.
    """
    nll, tokens = np.asarray(nll, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if nll.ndim != 1 or nll.shape != tokens.shape or nll.size == 0:
        raise ValueError(f"nll and tokens have shapes {nll.shape} and {tokens.shape}; expected one entry a document")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a share between 0 and 1, for example 0.95")
    drawn = np.random.default_rng(seed).multinomial(nll.size, np.full(nll.size, 1 / nll.size), size=resamples)
    resampled = np.exp((drawn @ nll) / (drawn @ tokens))
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
