"""Which samples of several sources make an epoch: shares by weight or by p^alpha (XLM, XLM-R), none drawn twice.

S sources, N samples of all of them together; an epoch has N samples too.
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np


def parse_weights(text: str) -> dict[str, float]:
    """ "wikipedia=2,books=0.5" as {name: weight}; ValueError for what is no positive number, or named twice."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, separator, number = part.rpartition("=")
        name = name.strip()
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not separator or not name or not (0 < weight < math.inf):
            raise ValueError(
                f"--source-weights: {part.strip()!r} is no NAME=WEIGHT with a weight above 0; leave a source out by "
                "naming the others in --sources"
            )
        if name in weights:
            raise ValueError(f"--source-weights names {name!r} twice")
        weights[name] = weight
    return weights


def shares_by_weight(names: Sequence[str], weights: Mapping[str, float | None], origin: str) -> np.ndarray:
    """Shares [S] that add up to 1; ValueError unless `weights` has a number for each name.

    Args:
        names: of the sources. weights: may hold more. origin: where the weights stand, for the error.
    """
    missing = [name for name in names if weights.get(name) is None]
    if missing:
        raise ValueError(
            f"{origin}: no weight for {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}; name every "
            "source in --source-weights, or choose sources with --sources"
        )
    values = np.array([weights[name] for name in names], dtype=np.float64)
    if names and not (values.min() >= 0 and 0 < values.sum() < math.inf):
        raise ValueError(f"{origin}: expected weights of 0 or more, and one above 0; found {values.tolist()[:5]}")
    return values / values.sum()


def shares_by_alpha(tokens: Sequence[int], alpha: float) -> np.ndarray:
    """Shares [S] proportional to p^alpha, p the sources' shares of the tokens; alpha below 1 lifts small sources."""
    # relative to the largest, so that no power underflows
    values = (np.asarray(tokens, dtype=np.float64) / max(tokens)) ** alpha
    return values / values.sum()


def samples_per_epoch(shares: np.ndarray, total: int) -> np.ndarray:
    """How many of `total` samples each source gives: shares x total, rounded so that they add up.

    At least one each, none where the share is 0.
    """
    exact = shares * total
    counts = np.floor(exact).astype(np.int64)
    rest = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    for number in np.flatnonzero((counts == 0) & (shares > 0)):
        counts[np.argmax(counts)] -= 1
        counts[number] = 1
    return counts


class Mixture:
    """The samples of each epoch, by their numbers when the sources stand one after the other.

    A source goes through all of its samples in a random order before any comes again, over the ends of epochs. What an
    epoch holds depends on the arguments alone, so that a training can start again at any epoch.

    Args:
        names: of the sources, [S]; a source's order depends on its name, not on its place.
        lengths: numbers of samples, [S]. shares: [S], adding up to 1. seed: any whole number.
    """

    def __init__(self, names: Sequence[str], lengths: Sequence[int], shares: np.ndarray, seed: int):
        self.names = list(names)
        self.lengths = [int(length) for length in lengths]
        self.counts = samples_per_epoch(shares, sum(self.lengths)).tolist()
        self.seed = seed % (1 << 63)

    def samples(self, visit: int) -> np.ndarray:
        """Numbers [N] int64 of the samples of the visit-th epoch (from 1), source by source."""
        parts, before = [], 0
        for name, length, count in zip(self.names, self.lengths, self.counts, strict=True):
            parts.append(before + self._next(name, length, (visit - 1) * count, count))
            before += length
        return np.concatenate(parts)

    def _next(self, name: str, length: int, done: int, count: int) -> np.ndarray:
        """The `count` samples of a source that come after the first `done`."""
        parts = [np.empty(0, dtype=np.int64)]
        while count > 0:
            number, offset = divmod(done, length)
            generator = np.random.default_rng([self.seed, zlib.crc32(name.encode()), number])
            parts.append(generator.permutation(length)[offset : offset + count])
            done, count = done + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)
