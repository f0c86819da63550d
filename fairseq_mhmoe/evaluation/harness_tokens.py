"""Requests of lm-evaluation-harness in tokens: where a continuation begins, and what a model of T positions is shown.

T most positions of the model. A document of our training data stands behind eos (with --add-bos-token behind bos and
eos), so that is what stands before a request's text too.
"""

from dataclasses import dataclass
from functools import lru_cache

from lm_eval.utils import get_rolling_token_windows

from fairseq_mhmoe.evaluation.loading import Loaded

# symbols before a generated text that are decoded with it, so that its first space is seen
ANCHOR = 8


@dataclass(frozen=True)
class Window:
    """What the model is shown at once, and the tokens that its last positions are to predict."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


class RequestTokens:
    """Text to tokens and to windows, for one model.

    Args:
        loaded: its dictionary, tokenizer, --add-bos-token and longest input count.
    Raises:
        ValueError: no tokenizer, or a model without a position for a token behind the prefix.
    """

    def __init__(self, loaded: Loaded):
        self.dictionary = loaded.dictionary
        self.text = loaded.text()
        self.longest = loaded.longest
        self.begin = (self.dictionary.bos(),) if loaded.task.args.add_bos_token else ()
        self.room = self.longest - len(self.begin)
        if self.room < 2:
            raise ValueError(f"{loaded.path}: a model of {self.longest} positions is too short to be asked anything")
        self.encode = lru_cache(maxsize=4096)(self._encode)  # the contexts of a question's choices are equal

    def _encode(self, text: str) -> tuple[int, ...]:
        symbols = self.text.encode(text)
        return tuple(self.dictionary.index(symbol) for symbol in symbols.split(" ")) if symbols else ()

    def decode(self, tokens) -> str:
        """Text of tokens; special symbols other than <unk> are left out."""
        special = {self.dictionary.bos(), self.dictionary.pad(), self.dictionary.eos()}
        symbols = [self.dictionary[token] for token in tokens if token not in special]
        return self.text.decode(" ".join(symbols)) if symbols else ""

    def pair(self, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens of a context and of its continuation, as lm-evaluation-harness tells them apart.

        Space at the end of the context goes to the continuation; both are encoded as one text, and what lies behind
        as many tokens as the context alone has is the continuation. Where nothing does, because the tokenizer joined
        the two, it begins with the first token that differs.
        """
        bare = context.rstrip()
        whole, alone = self.encode(context + continuation), self.encode(bare)
        if len(whole) > len(alone):
            return whole[: len(alone)], whole[len(alone) :]
        equal = next((i for i, (a, b) in enumerate(zip(whole, alone, strict=False)) if a != b), len(whole))
        return whole[:equal], whole[equal:]

    def windows(self, context: tuple[int, ...], continuation: tuple[int, ...]) -> list[Window]:
        """Windows that predict every token of the continuation once.

        One window where the continuation fits into the model, with as much of the context's end as fits. Otherwise
        the continuation is cut as the harness cuts a document (`get_rolling_token_windows`), the last one with as
        much text before it as fits.
        """
        before = (self.dictionary.eos(), *context)
        if not continuation:
            return []
        if len(continuation) <= self.room:
            inputs = (*before, *continuation[:-1])[-self.room :]
            return [Window((*self.begin, *inputs), continuation)]
        pairs = get_rolling_token_windows(list(continuation), before[-1], max_seq_len=self.room, context_len=1)
        return [Window((*self.begin, *inputs), tuple(targets)) for inputs, targets in pairs]

    def prompt(self, context: str, new_tokens: int) -> tuple[int, ...]:
        """What stands before a text to be generated: its end, so that new_tokens fit, or half of the model if more."""
        kept = max(self.room - new_tokens, self.room // 2)
        return (*self.begin, *(self.dictionary.eos(), *self.encode(context))[-kept:])

    def cut(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """A text that has filled the model, cut to its second half."""
        return (*self.begin, *tokens[len(self.begin) :][-(self.room // 2) :])

    def generated(self, prompt: tuple[int, ...], new: list[int]) -> str:
        """Text of new tokens behind a prompt, with the space before it, if any."""
        anchor = prompt[-ANCHOR:]
        return self.decode([*anchor, *new])[len(self.decode(anchor)) :]
