"""Diversity by word: sums over a text, and words of a list against the rest of the words. W different words."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fairseq_mhmoe.analysis.diversity import Sizes
from fairseq_mhmoe.analysis.word_lists import WordList

REST = "rest"
MOST_BINS = 60
# a difference is called one from so many standard errors on: about 1 chance in 20 without any
SURE = 2.0
MOST_PIECES = 3


@dataclass
class Sums:
    """What is kept of a word or token over its occurrences."""

    count: int = 0
    value: float = 0.0
    square: float = 0.0
    first: float = 0.0
    pieces: int = 0

    def add(self, value: float, first: float, pieces: int = 1) -> None:
        """One more occurrence: diversity by all choices and by first choice."""
        self.count += 1
        self.value += value
        self.square += value * value
        self.first += first
        self.pieces += pieces

    @property
    def mean(self) -> float:
        """Diversity by all choices."""
        return self.value / self.count

    def report(self) -> dict:
        """Plain numbers; the standard error takes the occurrences as independent, and is None for a single one."""
        variance = max(self.square / self.count - self.mean**2, 0.0) * self.count / max(self.count - 1, 1)
        return {
            "count": self.count,
            "mean": self.mean,
            "standard_error": math.sqrt(variance / self.count) if self.count > 1 else None,
            "mean_first_choice": self.first / self.count,
        }


@dataclass(frozen=True)
class Bins:
    """Equal bins for diversity: their middles are values that a single piece can have, or groups of as many of them."""

    start: float
    width: float
    number: int

    @classmethod
    def of(cls, sizes: Sizes) -> "Bins":
        """Bins over 1 .. min(N, H K) in steps of 1 / L, or of a multiple of that where these are too many."""
        layers = len(sizes.blocks)
        values = (sizes.largest - 1) * layers + 1
        together = -(-values // MOST_BINS)
        return cls(1 - 0.5 / layers, together / layers, -(-values // together))

    def place(self, value: float) -> int:
        """The bin of a value; one that lies on a border belongs to the upper bin."""
        return min(max(int((value - self.start) / self.width + 1e-6), 0), self.number - 1)

    def edges(self) -> list[float]:
        """number + 1 borders."""
        return [self.start + self.width * number for number in range(self.number + 1)]


@dataclass
class WordTally:
    """Sums by word and a histogram of occurrences by list. Memory grows with the number of different words."""

    lists: Sequence[WordList]
    bins: Bins
    words: dict[str, Sums] = field(default_factory=dict)

    def __post_init__(self):
        self.listed = frozenset().union(*(each.words for each in self.lists))
        self.histograms = {name: [0] * self.bins.number for name in (*(each.name for each in self.lists), REST)}

    def add(self, key: str, pieces: Sequence[tuple[float, float]]) -> None:
        """One occurrence of a word; its value is the mean of its pieces' (by all choices, by first choice)."""
        value = sum(piece[0] for piece in pieces) / len(pieces)
        first = sum(piece[1] for piece in pieces) / len(pieces)
        self.words.setdefault(key, Sums()).add(value, first, len(pieces))
        place = self.bins.place(value)
        if key in self.listed:
            for each in self.lists:
                if key in each.words:
                    self.histograms[each.name][place] += 1
        else:
            self.histograms[REST][place] += 1

    def compare(self, words: WordList) -> dict:
        """One list against all words that stand in no list; see `compared` and `matched`."""
        inside = [self.words[key] for key in sorted(words.words) if key in self.words]
        rest = [sums for key, sums in self.words.items() if key not in self.listed]
        return {
            "name": words.name,
            "file": words.path.name,
            "words": len(words.words),
            "words_matched": len(inside),
            "occurrences": sum(sums.count for sums in inside),
            "rest_words": len(rest),
            "rest_occurrences": sum(sums.count for sums in rest),
            "all_choices": compared(inside, rest, "value"),
            "first_choice": compared(inside, rest, "first"),
            "matched": matched(inside, rest),
            "histogram": {
                "edges": self.bins.edges(),
                "list": shares(self.histograms[words.name]),
                "rest": shares(self.histograms[REST]),
            },
        }


def shares(counts: Sequence[int]) -> list[float]:
    """Counts divided by their sum; all 0 without any."""
    total = max(sum(counts), 1)
    return [count / total for count in counts]


def clustered_mean(counts: np.ndarray, sums: np.ndarray) -> tuple[float | None, float | None]:
    """Mean over all occurrences, and its standard error where the occurrences of one word depend on each other.

    Words, not occurrences, are taken as independent: variance W / (W - 1) sum_w (s_w - n_w m)^2 / (sum_w n_w)^2.

    Args:
        counts, sums: [W] occurrences n_w, and their values added up, s_w.
    Returns:
        the mean, None without words; its standard error, None with fewer than 2.
    """
    words, total = len(counts), counts.sum()
    if words == 0:
        return None, None
    mean = float(sums.sum() / total)
    if words == 1:
        return mean, None
    return mean, float(math.sqrt(words / (words - 1) * ((sums - counts * mean) ** 2).sum()) / total)


def compared(inside: Sequence[Sums], rest: Sequence[Sums], what: str) -> dict:
    """Means of both groups over occurrences (figure 7), and their difference with its standard error."""
    found = {}
    for name, group in (("list", inside), (REST, rest)):
        counts = np.array([sums.count for sums in group], dtype=float)
        found[name] = clustered_mean(counts, np.array([getattr(sums, what) for sums in group]))
    (mean, error), (rest_mean, rest_error) = found["list"], found[REST]
    both = error is not None and rest_error is not None
    difference = mean - rest_mean if mean is not None and rest_mean is not None else None
    return {
        "mean": mean,
        "standard_error": error,
        "rest_mean": rest_mean,
        "rest_standard_error": rest_error,
        **judged(difference, math.hypot(error, rest_error) if both else None),
    }


def matched(inside: Sequence[Sums], rest: Sequence[Sums]) -> dict:
    """The difference between words that are equally frequent and as long, each word counted once.

    Words of frequency n and about p pieces are compared with those of the same floor(log2 n) and p (3 or more are one),
    and the differences are averaged by the number of words of the list. The variance is that within such groups.
    """
    groups: dict[tuple[int, int], tuple[list[float], list[float]]] = {}
    for side, sums in ((side, sums) for side, group in enumerate((inside, rest)) for sums in group):
        key = sums.count.bit_length() - 1, min(round(sums.pieces / sums.count), MOST_PIECES)
        groups.setdefault(key, ([], []))[side].append(sums.mean)
    usable = [pair for pair in groups.values() if pair[0] and pair[1] and len(pair[0]) + len(pair[1]) > 2]
    words = sum(len(pair[0]) for pair in usable)
    difference, variance = 0.0, 0.0
    for ours, others in (map(np.array, pair) for pair in usable):
        weight = len(ours) / words
        squares = ((ours - ours.mean()) ** 2).sum() + ((others - others.mean()) ** 2).sum()
        difference += weight * float(ours.mean() - others.mean())
        within = float(squares) / (len(ours) + len(others) - 2)
        variance += weight**2 * within * (1 / len(ours) + 1 / len(others))
    return {
        "groups": len(usable),
        "words": words,
        "words_without_counterpart": len(inside) - words,
        "rest_words": sum(len(pair[1]) for pair in usable),
        **judged(difference if words else None, math.sqrt(variance) if words else None),
    }


def judged(difference: float | None, error: float | None) -> dict:
    """A difference with its standard error, their ratio, and in words what may be said."""
    ratio = difference / error if difference is not None and error else None
    if ratio is None:
        verdict = "too few words to tell"
    elif abs(ratio) < SURE:
        verdict = "no difference shown"
    else:
        verdict = f"{'more' if ratio > 0 else 'fewer'} experts than the rest"
    return {"difference": difference, "standard_error_of_difference": error, "ratio": ratio, "verdict": verdict}


def extremes(sums: Iterable[tuple[str, Sums]], min_count: int, number: int) -> dict:
    """The entries of largest and of smallest mean that occur min_count times or more, `number` of each.

    No entry is in both: with few of them the lists are shorter. "enough" says how many occur that often.
    """
    entries = [(name, each) for name, each in sums if each.count >= min_count]
    entries.sort(key=lambda entry: (-entry[1].mean, -entry[1].count, entry[0]))
    number = min(number, len(entries) // 2)

    def rows(chosen: Iterable[tuple[str, Sums]]) -> list[dict]:
        return [{"text": name, **each.report()} for name, each in chosen]

    bottom = entries[len(entries) - number :]
    return {"enough": len(entries), "top": rows(entries[:number]), "bottom": rows(reversed(bottom))}
