"""The light cleaning of texts that are no markup: what breaks a tokenizer or an index goes, the rest stays."""

import re

from datatrove.data import Document

LINE_BREAKS = re.compile(r"\r\n?")
# NUL ends strings in other programs, lone surrogates have no UTF-8
UNWRITABLE = re.compile("[\0\ud800-\udfff]")
BLANK_LINES_BEFORE = re.compile(r"\A(?:[^\S\n]*\n)+")


def clean_text(text: str) -> str:
    r"""The text with \n between lines, without NUL, lone surrogates and blank lines around it; indentation stays.

    U+2581 becomes an underscore, because SentencePiece marks spaces with it; so what is left survives tokenization.
    """
    text = UNWRITABLE.sub("", LINE_BREAKS.sub("\n", text)).replace("\u2581", "_")
    return BLANK_LINES_BEFORE.sub("", text).rstrip()


def clean_document(document: Document) -> str | None:
    """Clean a document's text in place; "empty" when nothing is left of it, else None."""
    document.text = clean_text(document.text)
    return None if document.text else "empty"
