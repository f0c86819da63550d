"""Words and characters of a running text that comes as token ids, whatever the tokenizer; pieces may split characters.

A word is a longest run of letters with their marks, apostrophes inside of it included, without a possessive 's. A
piece belongs to a word if it holds one of the word's letters: the space or the sign that a piece has beside them
(SentencePiece's boundary mark is a space) doesn't matter, nor where the tokenizer cut.
"""

import codecs
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

APOSTROPHES = "'\u2019"
# of a text without any spaces this many tokens are looked at together
LONGEST_RUN = 4096


@dataclass(frozen=True)
class Word:
    """A word of a text: as it stands there, and the places of its first piece and behind its last one."""

    text: str
    first: int
    stop: int

    @property
    def key(self) -> str:
        """What words are counted by: upper and lower case are one."""
        return fold(self.text)


def fold(word: str) -> str:
    """A word without the difference of upper and lower case and of composed and decomposed letters."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", word).casefold())


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern:
    # in Python's \w are no combining marks, of which the vowels of many scripts are
    marks = "".join(map(_escaped, _marks()))
    letter = rf"(?:[^\W\d_]|[{marks}])"
    return re.compile(rf"[^\W\d_]{letter}*(?:[{APOSTROPHES}]{letter}+)*")


def _marks() -> Iterator[tuple[int, int]]:
    """Ranges of combining marks, and the two joiners that stand inside of words."""
    yield 0x200C, 0x200D
    start = None
    for code in range(sys.maxunicode + 2):
        is_mark = code <= sys.maxunicode and unicodedata.category(chr(code)).startswith("M")
        if is_mark and start is None:
            start = code
        elif not is_mark and start is not None:
            yield start, code - 1
            start = None


def _escaped(span: tuple[int, int]) -> str:
    return f"\\U{span[0]:08x}-\\U{span[1]:08x}"


def find_words(text: str) -> Iterator[tuple[str, int, int]]:
    """(word, its first character, the one behind its last) of a text, in order."""
    for match in _pattern().finditer(text):
        word = match.group()
        if len(word) > 2 and word[-2] in APOSTROPHES and word[-1] in "sS":
            word = word[:-2]
        yield word, match.start(), match.start() + len(word)


def characters(pieces: Sequence[bytes]) -> tuple[str, list[tuple[int, int]]]:
    """Text of pieces, and for each the characters [first, stop) that it holds a part of.

    Bytes that are no UTF-8 become U+FFFD. A piece without bytes holds no character.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    parts, spans = [], []
    end = 0
    for number, piece in enumerate(pieces):
        decoded = decoder.decode(piece, final=number == len(pieces) - 1)
        is_open = bool(decoder.getstate()[0])
        parts.append(decoded)
        stop = end + len(decoded)
        # what an unfinished character at its end will become is one of the characters of the next pieces
        spans.append((end, stop + is_open) if piece else (end, end))
        end = stop
    return "".join(parts), spans


class WordStream:
    """Finds the words in tokens that come in portions; words over the end of a portion come with the next one.

    Args:
        bytes_of: id of a token -> its bytes. ends: ids that end a document, and so a word.
    """

    def __init__(self, bytes_of: Callable[[int], bytes], ends: set[int]):
        self._bytes_of = bytes_of
        self._ends = ends
        self._tokens: list[int] = []
        self._values: list[tuple[float, ...]] = []

    def feed(
        self, tokens: Sequence[int], values: Sequence[tuple[float, ...]]
    ) -> Iterator[tuple[Word, list[tuple[float, ...]]]]:
        """The words that are complete now, each with the values of its pieces; values are as many as tokens.

        `Word.first` and `Word.stop` count from the first token that was kept from earlier portions.
        """
        self._tokens += tokens
        self._values += values
        cut = self._safe_cut()
        yield from self._words(cut)
        del self._tokens[:cut], self._values[:cut]

    def finish(self) -> Iterator[tuple[Word, list[tuple[float, ...]]]]:
        """The words of what is left."""
        yield from self._words(len(self._tokens))
        self._tokens, self._values = [], []

    def _safe_cut(self) -> int:
        """Up to where no word can go on: the last token that begins with a space or ends a document."""
        for place in range(len(self._tokens) - 1, 0, -1):
            token = self._tokens[place]
            if token in self._ends or self._bytes_of(token)[:1].isspace():
                return place
        return len(self._tokens) if len(self._tokens) > LONGEST_RUN else 0

    def _words(self, stop: int) -> Iterator[tuple[Word, list[tuple[float, ...]]]]:
        start = 0
        for place in range(stop + 1):
            if place == stop or self._tokens[place] in self._ends:
                for word in words_of(list(map(self._bytes_of, self._tokens[start:place]))):
                    yield word, self._values[start + word.first : start + word.stop]
                start = place + 1


def words_of(pieces: Sequence[bytes]) -> Iterator[Word]:
    """The words of a text that comes in pieces, each with its pieces."""
    text, spans = characters(pieces)
    place = 0
    for word, first, stop in find_words(text):
        while spans[place][1] <= first:
            place += 1
        last = place
        while last < len(spans) and spans[last][0] < stop:
            last += 1
        yield Word(word, place, last)
