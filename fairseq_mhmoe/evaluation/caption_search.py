"""Beam search over captions, of many images at once.

N images, K captions of each that are looked at together (the beam), R = N * K rows, V symbols, L tokens so far.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Beam:
    """How to search.

    A caption's score is its log-probability, that of </s> included, divided by (symbols ^ length_penalty), where <s>
    and </s> count: 0 is the log-probability, 1 its mean. Larger values make longer captions.
    """

    width: int = 3  # 1 takes the likeliest symbol at each step
    longest: int = 30  # tokens without <s> and </s>; the caption then ends
    length_penalty: float = 0.6

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"--beam {self.width}: expected 1 (greedy) or more")
        if self.longest < 1:
            raise ValueError(f"--max-length {self.longest}: expected a number of tokens, 1 or more")
        if not math.isfinite(self.length_penalty):
            raise ValueError(f"--length-penalty {self.length_penalty}: expected a number; 0 for none")

    def score(self, log_probability: float, tokens: int) -> float:
        """Of a caption of so many tokens without <s> and </s>."""
        return log_probability / (tokens + 2) ** self.length_penalty


@dataclass(frozen=True)
class Symbols:
    """Numbers of the symbols that search needs; `never` are those that no caption has."""

    bos: int
    eos: int
    never: tuple[int, ...] = ()


@dataclass(frozen=True)
class Caption:
    """What was found for an image."""

    tokens: list[int]  # without <s> and </s>
    score: float


@torch.no_grad()
def beam_search(
    log_probs_of: Callable[[Tensor, Tensor], Tensor], images: int, beam: Beam, symbols: Symbols, device="cpu"
) -> list[Caption]:
    """The best caption found for each image.

    At every step the likeliest K continuations of each image's K beginnings go on; one that ends among the likeliest K
    is a caption, and an image with K captions is done, as in fairseq's generator.

    Args:
        log_probs_of: (image of each row [R], their beginnings <s> tokens [R, 1 + L]) -> log-probabilities of the next
            symbol [R, V].
        images: N.
        device: where the tensors of both are.
    Raises:
        ValueError: the model's log-probabilities are no numbers.
    """
    found = [[] for _ in range(images)]
    # images that are not done, the beginnings of their captions [N, K, 1 + L], log-probabilities of these [N, K]
    left = torch.arange(images, device=device)
    texts = torch.full((images, 1, 1), symbols.bos, dtype=torch.long, device=device)
    scores = torch.zeros(images, 1, device=device)
    for length in range(beam.longest + 1):
        if not len(left):
            break
        of_next = _allowed(log_probs_of, left, texts, symbols, only_end=length == beam.longest)
        best, places = (scores.unsqueeze(2) + of_next).flatten(1).topk(min(2 * beam.width, of_next[0].numel()))
        parents, chosen = places // of_next.size(2), places % of_next.size(2)
        ends = (chosen == symbols.eos) & best.isfinite()
        _collect(found, left, texts, parents, best, ends[:, : beam.width], beam)
        # the first K of the others go on; where there are fewer, what is chosen has no chance
        order = ends.long().argsort(dim=1, stable=True)[:, : beam.width]
        scores = best.masked_fill(ends, -math.inf).gather(1, order)
        parents, chosen = parents.gather(1, order), chosen.gather(1, order)
        texts = texts.gather(1, parents.unsqueeze(2).expand(-1, -1, texts.size(2)))
        texts = torch.cat([texts, chosen.unsqueeze(2)], dim=2)
        going = [place for place, image in enumerate(left.tolist()) if len(found[image]) < beam.width]
        going = torch.tensor(going, dtype=torch.long, device=device)
        going = going[scores[going, 0].isfinite()]
        left, texts, scores = left[going], texts[going], scores[going]
    nothing = Caption([], -math.inf)  # where </s> has no chance at all
    return [max(captions, key=lambda caption: caption.score, default=nothing) for captions in found]


def _allowed(log_probs_of, left: Tensor, texts: Tensor, symbols: Symbols, only_end: bool) -> Tensor:
    """Log-probabilities of the next symbols [N, K, V]; -inf for those that can't follow."""
    n, k = texts.shape[:2]
    log_probs = log_probs_of(left.repeat_interleave(k), texts.flatten(0, 1)).float().view(n, k, -1).clone()
    if log_probs.isnan().any():
        raise ValueError("the model's log-probabilities are NaN: its weights, or its precision, are not usable")
    log_probs[..., list(symbols.never)] = -math.inf
    if only_end:
        ends = log_probs[..., symbols.eos].clone()
        log_probs.fill_(-math.inf)
        log_probs[..., symbols.eos] = ends
    return log_probs


def _collect(found: list, left: Tensor, texts: Tensor, parents: Tensor, best: Tensor, ends: Tensor, beam: Beam) -> None:
    """Adds the captions that end, [N, K] True, to those of their images."""
    for place, rank in ends.nonzero().tolist():
        tokens = texts[place, parents[place, rank], 1:].tolist()
        score = beam.score(float(best[place, rank]), len(tokens))
        found[left[place]].append(Caption(tokens, score))
