"""What a few seeds can tell: means, standard errors, and a verdict on the difference of two models."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
AHEAD, BEHIND, UNDECIDED = "ahead", "behind", "not told apart"
RELATIONS = {AHEAD: "ahead of", BEHIND: "behind", UNDECIDED: "not told apart from"}


@dataclass(frozen=True)
class Mean:
    """Mean over seeds and its standard error; one seed has none."""

    mean: float
    standard_error: float | None
    count: int


@dataclass(frozen=True)
class Verdict:
    """Whether `first` has the lower loss than `second`, seed by seed.

    `difference` is the mean over seeds of first - second in nats per token (below 0: first is better), `ratio` the
    ratio of their perplexities, exp(difference). `needed` is the |t| beyond which chance, at 95 % confidence and two
    sides, is ruled out; both are None where a single seed leaves the spread unknown, t also where there is none.
    """

    first: str
    second: str
    word: str
    difference: float
    standard_error: float | None
    t: float | None
    needed: float | None
    seeds: int
    paper: str | None  # the word of the paper's perplexities; None where it has none

    @property
    def ratio(self) -> float:
        """Perplexity of first over that of second."""
        return math.exp(self.difference)


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and standard error, s / sqrt(n) with s over n - 1."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Mean(mean, None, count)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Mean(mean, math.sqrt(variance / count), count)


def judge(first: str, second: str, nll: Mapping[str, Mapping[int, float]], paper: str | None = None) -> Verdict:
    """Compare two models by their losses on the same text, paired by seed (which fixes the order of the data).

    Args:
        nll: of each model, by seed, the mean nats per token.
        paper: what the paper's perplexities say of first against second.
    Raises:
        ValueError: they have no seed in common.
    """
    seeds = sorted(set(nll[first]) & set(nll[second]))
    if not seeds:
        raise ValueError(f"{first} and {second} have no seed in common")
    found = mean_of([nll[first][seed] - nll[second][seed] for seed in seeds])
    word, t, needed = UNDECIDED, None, None
    if found.standard_error is not None:
        needed = t_quantile(found.count - 1)
        t = found.mean / found.standard_error if found.standard_error else None
        # seeds that differ by the same number have no spread to be measured against
        certain = found.mean != 0 if t is None else abs(t) > needed
        word = UNDECIDED if not certain else AHEAD if found.mean < 0 else BEHIND
    return Verdict(first, second, word, found.mean, found.standard_error, t, needed, len(seeds), paper)


def paper_word(first: float | None, second: float | None) -> str | None:
    """What two perplexities of a paper, which gives no spread, say."""
    if first is None or second is None:
        return None
    return AHEAD if first < second else BEHIND if first > second else UNDECIDED


def order_sentence(verdicts: Sequence[Verdict], names: Mapping[str, str]) -> str:
    """Whether the paper's order appears: in all pairs of which the paper has figures."""
    known = [verdict for verdict in verdicts if verdict.paper in (AHEAD, BEHIND)]
    if not known:
        return "The paper has no figures for these models: no order to confirm."
    against = [v for v in known if v.word in (AHEAD, BEHIND) and v.word != v.paper]
    open_ones = [v for v in known if v.word == UNDECIDED]
    agreeing = len(known) - len(against) - len(open_ones)

    def listing(found: Sequence[Verdict]) -> str:
        return "; ".join(f"{names[v.first]} is {RELATIONS[v.word]} {names[v.second]}" for v in found)

    if agreeing == len(known):
        return f"The paper's order appears: all {len(known)} comparisons agree with it."
    start = f"{agreeing} of {len(known)} comparisons agree with the paper"
    if against:
        more = f" ({len(open_ones)} not told apart)" if open_ones else ""
        return f"The paper's order does not appear: {start}{more}; against it: {listing(against)}."
    return f"The paper's order is neither confirmed nor refuted: {start}; {listing(open_ones)}."


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """t with P(|T| <= t) = confidence, for Student's distribution with so many degrees of freedom."""
    low, high = 0.0, 1.0
    while t_within(high, degrees) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, degrees) < confidence else (low, middle)
    return high


def t_within(t: float, degrees: int) -> float:
    """P(|T| <= t), the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine = math.cos(angle)
    odd = degrees % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    # odd: cos + 2/3 cos^3 + ... to cos^(degrees-2); even: 1 + 1/2 cos^2 + ... to cos^(degrees-2)
    for power in range(1 if odd else 0, degrees - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
