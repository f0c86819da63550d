"""Text that a model goes on with: greedy or sampled, token by token, with the decoder's cache of keys and values.

B batch, T length, V vocabulary.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fairseq_mhmoe.evaluation.harness_tokens import RequestTokens
from fairseq_mhmoe.evaluation.loading import Loaded

MOST_NEW_TOKENS = 256  # what the harness's models take where a task says nothing
LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
KNOWN = {"until", "do_sample", "temperature", "top_k", "top_p", *LENGTH_NAMES}


@dataclass(frozen=True)
class Settings:
    """How a text is generated.

    Args:
        until: it ends before the first of these; it ends at eos in any case.
        new_tokens: and after so many tokens.
        temperature: 0 takes the most probable token; else logits are divided by it and a token is drawn.
        top_k, top_p: draw from the k most probable tokens, or from as few as have the probability p; 0 and 1: from all.
    """

    until: tuple[str, ...] = ()
    new_tokens: int = MOST_NEW_TOKENS
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    @classmethod
    def of_request(cls, given: dict) -> "Settings":
        """The settings of a task's generation_kwargs; ValueError for what we don't know, or values that can't be."""
        if unknown := sorted(set(given) - KNOWN):
            raise ValueError(f"generation_kwargs {unknown[0]!r}: expected some of {', '.join(sorted(KNOWN))}")
        until = given.get("until") or []
        until = [until] if isinstance(until, str) else until
        lengths = [int(given[name]) for name in LENGTH_NAMES if given.get(name) is not None]
        drawn = given.get("do_sample")
        temperature = float(given.get("temperature", 1.0 if drawn else 0.0)) if drawn is not False else 0.0
        settings = cls(
            until=tuple(stop for stop in until if stop),
            new_tokens=lengths[0] if lengths else MOST_NEW_TOKENS,
            temperature=temperature,
            top_k=int(given.get("top_k") or 0),
            top_p=float(given.get("top_p") or 1.0),
        )
        if settings.new_tokens < 1 or temperature < 0 or settings.top_k < 0 or not 0 < settings.top_p <= 1:
            raise ValueError(
                f"generation_kwargs {given}: expected max_gen_toks of 1 or more, a temperature and a top_k of 0 or "
                "more, and a top_p above 0 and up to 1"
            )
        return settings


@dataclass
class Text:
    """A text that grows: all that the model is shown of it, and what is new."""

    prompt: tuple[int, ...]
    settings: Settings
    generator: torch.Generator
    shown: list[int] = field(default_factory=list)
    new: list[int] = field(default_factory=list)
    done: str | None = None

    def take(self, token: int, tokens: RequestTokens) -> None:
        """Go on with a token, or end."""
        if token != tokens.dictionary.eos():
            self.new.append(token)
            self.shown.append(token)
        text = tokens.generated(self.prompt, self.new)
        ends = [end for stop in self.settings.until if (end := text.find(stop)) >= 0]
        if ends or token == tokens.dictionary.eos() or len(self.new) >= self.settings.new_tokens:
            self.done = text[: min(ends, default=len(text))]


class Decoding:
    """The cache of keys and values of a batch of texts, pads before the shorter ones."""

    def __init__(self, loaded: Loaded):
        self.decoder = loaded.model.decoder
        self.device = loaded.device
        self.longest = loaded.longest
        self.width = 0  # tokens of a row that the cache holds, pads included
        self.state: dict = {}

    def logits(self, texts: Sequence[Text], tokens: RequestTokens) -> Tensor:
        """Logits [B, V] float32, on the CPU, of what follows each text."""
        if self.width == 0 or self.width == self.longest:
            self.state = {}
            for text in texts:
                if len(text.shown) > self.longest:
                    text.shown = list(tokens.cut(tuple(text.shown)))
            self.width = max(len(text.shown) for text in texts)
        else:
            self.width += 1
        pad = tokens.dictionary.pad()
        batch = torch.tensor([[pad] * (self.width - len(text.shown)) + text.shown for text in texts])
        features, _ = self.decoder(batch.to(self.device), features_only=True, incremental_state=self.state)
        return self.decoder.output_layer(features[:, -1]).float().cpu()

    def keep(self, rows: Sequence[int]) -> None:
        """Forget the other rows of the batch."""
        self.decoder.reorder_incremental_state_scripting(self.state, torch.tensor(rows, device=self.device))


@torch.inference_mode()
def generate(
    loaded: Loaded, tokens: RequestTokens, requests: Sequence[tuple[tuple[int, ...], Settings]], seeds: Sequence[str]
) -> list[str]:
    """Go on with each of a batch of prompts, and return what comes.

    A text that fills the model goes on from its second half, read anew.

    Args:
        requests: (tokens of the prompt, settings).
        seeds: what a request's random numbers are made from; so they depend neither on the batch nor on the process.
    """
    texts = [
        Text(prompt, settings, random_numbers(seed), list(prompt))
        for (prompt, settings), seed in zip(requests, seeds, strict=True)
    ]
    growing, decoding = list(texts), Decoding(loaded)
    while growing:
        for text, row in zip(growing, decoding.logits(growing, tokens), strict=True):
            text.take(next_token(row, text.settings, text.generator), tokens)
        kept = [number for number, text in enumerate(growing) if text.done is None]
        if 0 < len(kept) < len(growing):
            decoding.keep(kept)
        growing = [growing[number] for number in kept]
    return [text.done for text in texts]


def next_token(logits: Tensor, settings: Settings, generator: torch.Generator) -> int:
    """The token that follows, from its logits [V]; ValueError for NaN."""
    if logits.isnan().any():
        raise ValueError("the model gives NaN; the checkpoint is of no use")
    if settings.temperature == 0:
        return int(logits.argmax())
    probs, order = (logits.double() / settings.temperature).softmax(0).sort(descending=True, stable=True)
    if settings.top_k:
        probs[settings.top_k :] = 0
    probs[probs.cumsum(0) - probs >= settings.top_p * probs.sum()] = 0
    return int(order[torch.multinomial(probs, 1, generator=generator)])


def random_numbers(seed: str) -> torch.Generator:
    """A generator that depends on a text."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big", signed=True)
    return torch.Generator().manual_seed(number)
