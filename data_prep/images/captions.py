"""Captions: what is taken as one, and their tokens by the tokenizer of a prepared text folder."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.cleaning import clean_text
from data_prep.files import sha256_of
from data_prep.manifest import DICTIONARY
from data_prep.tokenizers import Tokenizer, load_tokenizer
from data_prep.tokenizers.dictionary import FAIRSEQ_SPECIALS

SURROGATE = re.compile("[\ud800-\udfff]")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
TOKENIZER_FILES = ("spm.model", "tokenizer.tiktoken")
NOT_UTF8, EMPTY, TOO_LONG, NOT_TEXT = "caption_not_utf8", "caption_empty", "caption_too_long", "caption_not_text"


class BadCaption(ValueError):
    """A caption that is not taken. reason: a short word to count by."""

    def __init__(self, reason: str, details: str = ""):
        super().__init__(f"{reason}: {details}")
        self.reason = reason


def clean_caption(caption: object, max_chars: int) -> str:
    """One line of text: white space is one space, control characters go.

    Args:
        caption: a string, or bytes of UTF-8.
        max_chars: longer ones are refused, after cleaning.
    Raises:
        BadCaption: caption_not_utf8, caption_empty, caption_too_long, or caption_not_text for something else.
    """
    if isinstance(caption, (bytes, bytearray)):
        try:
            caption = bytes(caption).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadCaption(NOT_UTF8, str(error)) from None
    if not isinstance(caption, str):
        raise BadCaption(NOT_TEXT, f"{type(caption).__name__} instead of a string")
    if SURROGATE.search(caption):  # bytes of a file that are no UTF-8, or half a character of a JSON file
        raise BadCaption(NOT_UTF8, ascii(caption)[:80])
    text = " ".join(CONTROL.sub(" ", clean_text(caption)).split())
    if not text:
        raise BadCaption(EMPTY)
    if len(text) > max_chars:
        raise BadCaption(TOO_LONG, f"{len(text):,} characters, at most {max_chars:,}")
    return text


class CaptionEncoder:
    """The tokenizer of a prepared folder.

    Args:
        folder: with dict.txt and spm.model or tokenizer.tiktoken.
    Raises:
        ValueError: a file is missing, or the dictionary is not the tokenizer's.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        found = [self.folder / name for name in TOKENIZER_FILES if (self.folder / name).is_file()]
        if len(found) != 1 or not (self.folder / DICTIONARY).is_file():
            raise ValueError(
                f"dictionary folder {folder}: expected {DICTIONARY} and one of {', '.join(TOKENIZER_FILES)}, as "
                "`python -m data_prep` writes them"
            )
        self.tokenizer: Tokenizer = load_tokenizer(found[0])
        self.dictionary = self.folder / DICTIONARY
        lines = self.dictionary.read_text(encoding="utf-8").split("\n")
        symbols = [line.rpartition(" ")[0] for line in lines if line]
        if symbols[: len(self.tokenizer.symbols)] != list(self.tokenizer.symbols):
            raise ValueError(f"{self.dictionary} is not the dictionary of {found[0]}; take both from one folder")
        # what fairseq's Dictionary will count
        self.size = len(FAIRSEQ_SPECIALS) + len(symbols)

    def encode(self, captions: Sequence[str]) -> list[np.ndarray]:
        """fairseq's ids of each caption, int64, without <s> and </s>."""
        return self.tokenizer.encode(captions)

    def describe(self) -> dict:
        """For the manifest: {"tokenizer": ..., "dictionary": ...}."""
        return {
            "tokenizer": {
                "kind": self.tokenizer.kind,
                "file": self.tokenizer.file_name,
                "vocab_size": self.tokenizer.vocab_size,
                "sha256": sha256_of(self.folder / self.tokenizer.file_name),
            },
            "dictionary": {"file": DICTIONARY, "size": self.size, "sha256": sha256_of(self.dictionary)},
        }
