"""One model over one text: diversity of its tokens and words, batch by batch. B rows, T tokens."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import torch

from fairseq_mhmoe.analysis.activation_text import Batch
from fairseq_mhmoe.analysis.diversity import Counter, Sizes
from fairseq_mhmoe.analysis.diversity_html import TextPage
from fairseq_mhmoe.analysis.diversity_words import Bins, Sums, WordTally
from fairseq_mhmoe.analysis.running_text import WordStream
from fairseq_mhmoe.analysis.word_lists import WordList
from fairseq_mhmoe.evaluation.loading import Loaded
from fairseq_mhmoe.evaluation.routing import route


class Measured:
    """What one pass over a text gives."""

    def __init__(self, sizes: Sizes, lists: Sequence[WordList], page: TextPage, pieces: Callable[[int], bytes]):
        self.pieces = pieces
        self.counter = Counter(sizes)
        self.by_word = WordTally(lists, Bins.of(sizes))
        self.by_token: dict[int, Sums] = {}
        self.page = page


def measure(loaded: Loaded, sizes: Sizes, batches: Iterable[Batch], lists: Sequence[WordList], shown: int) -> Measured:
    """Run the model over a text; only one batch of it is in memory, and the first `shown` tokens for a page.

    Ends of documents, `<s>` and pads are no tokens of the text, and are left out.

    Raises:
        ValueError: as `bytes_of`.
    """
    pieces = bytes_of(loaded)
    dictionary = loaded.dictionary
    left_out = torch.tensor([dictionary.pad(), dictionary.bos(), dictionary.eos()], device=loaded.device)
    found = Measured(sizes, lists, TextPage(shown, pieces, dictionary.eos()), pieces)
    stream = WordStream(pieces, {dictionary.eos()})
    for batch in batches:
        tokens = batch.tokens.to(loaded.device)
        routing, _ = route(loaded, tokens)
        valid = ~torch.isin(tokens, left_out)
        numbers = zip(*(column.tolist() for column in found.counter.add(routing, valid)), strict=True)
        ids, values = [], []
        for token, counted in zip(tokens.flatten().tolist(), valid.flatten().tolist(), strict=True):
            if counted:
                value = next(numbers)
                found.by_token.setdefault(token, Sums()).add(*value)
            elif token == dictionary.eos():
                value = (0.0, 0.0)  # of no word
            else:
                continue
            ids.append(token)
            values.append(value)
        found.page.feed(ids, values)
        for word, of_pieces in stream.feed(ids, values):
            found.by_word.add(word.key, of_pieces)
    for word, of_pieces in stream.finish():
        found.by_word.add(word.key, of_pieces)
    return found


def bytes_of(loaded: Loaded) -> Callable[[int], bytes]:
    """Id of a token -> its bytes in a text.

    Raises:
        ValueError: the data has no tokenizer, or one that does not tell.
    """
    text = loaded.text()
    if not hasattr(text, "bytes_of"):
        raise ValueError(
            f"--bpe: {type(text).__name__} does not tell the text of tokens; expected SentencePiece or tiktoken, "
            "as `python -m data_prep` puts them into a prepared folder"
        )
    return lru_cache(maxsize=None)(lambda token: text.bytes_of(loaded.dictionary[token]))
