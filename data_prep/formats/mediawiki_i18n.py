"""Translations of MediaWiki: one JSON object a language, message name -> wiki text."""

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from datatrove.data import Document

from data_prep.formats.base import Format, Record, Rejected
from data_prep.formats.messages import GAP, clean_message, message_id
from data_prep.opening import DamagedFile
from data_prep.wikitext import plain_text

# The files are objects of a few MB, which are read as a whole.
LONGEST_FILE = 64 << 20
SURROGATE = re.compile(r"[\ud800-\udfff]")
# The parser functions that choose between words; innermost ones first, so no braces within.
CHOICE = re.compile(r"\{\{\s*(PLURAL|GENDER|GRAMMAR)\s*:([^{}]*)\}\}", re.IGNORECASE)
# Words that the site fills in, such as {{SITENAME}}.
VARIABLE = re.compile(r"\{\{[A-Z]+(?::[^{}]*)?\}\}")
NUMBERED = re.compile(r"^\s*\d+\s*=")
RECOGNIZED = re.compile(rb'^\s*\{\s*"@metadata"\s*:')


def read_i18n(stream: BinaryIO, name: str) -> Iterator[Record]:
    """Messages of a file in their order; a document's title is the message's name, and its id a hash of that.

    Reasons: text_type (the value is no text), encoding (half a surrogate pair), empty, repeated (the name was there).

    Raises:
        DamagedFile: no JSON object in UTF-8, or one of more than LONGEST_FILE bytes; with line or byte.
    """
    seen = set()
    for number, (key, value) in enumerate(_members(stream, name), start=1):
        if key == "@metadata":
            continue  # the translators
        reason = ""
        if not isinstance(value, str):
            reason = "text_type"
        elif SURROGATE.search(key + value):
            reason = "encoding"
        elif not value.strip() or value.strip() == "-":  # "-" switches a message off
            reason = "empty"
        elif key in seen:
            reason = "repeated"
        if reason:
            yield Rejected(reason, f"message {number} ({key!r})")
        else:
            seen.add(key)
            yield Document(text=value, id=message_id("", key), metadata={"title": key})


def _members(stream: BinaryIO, name: str) -> list[tuple[str, Any]]:
    """(name, value) of the object's members; objects inside are lists of pairs."""
    content = stream.read(LONGEST_FILE + 1)
    if len(content) > LONGEST_FILE:
        raise DamagedFile(f"{name}: byte {LONGEST_FILE}: no end yet, expected a file of messages; take it out")
    remedy = "fetch the file again"
    try:
        members = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_Pairs)
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{name}: byte {error.start}: no UTF-8; {remedy}") from None
    except json.JSONDecodeError as error:
        raise DamagedFile(f"{name}: line {error.lineno}: no JSON: {error.msg}; {remedy}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        raise DamagedFile(f"{name}: byte 0 to {len(content)}: cannot be read as JSON: {error}; {remedy}") from None
    if not isinstance(members, _Pairs):
        raise DamagedFile(f"{name}: line 1: expected an object of messages, found another JSON value; {remedy}")
    return members


class _Pairs(list):
    """Members of a JSON object, repeated names included."""


def clean_i18n(doc: Document) -> str | None:
    """Make text of a message's wiki text, in place -> why it is rejected (markup, empty), or None."""
    text = doc.text
    while (chosen := CHOICE.sub(_choose, text)) != text:
        text = chosen
    try:
        doc.text = plain_text(VARIABLE.sub(GAP, text))
    except ValueError:
        return "markup"
    return clean_message(doc)


def _choose(match: re.Match) -> str:
    """{{PLURAL:$1|page|pages}} -> pages, {{GENDER:$1|his|her|their}} -> his, {{GRAMMAR:genitive|word}} -> word."""
    _, *words = match[2].split("|")
    words = [word for word in words if not NUMBERED.match(word)] or [""]
    return words[0] if match[1].upper() == "GENDER" else words[-1]


FORMAT = Format("mediawiki-i18n", read_i18n, (".json",), clean_i18n, lambda head: RECOGNIZED.match(head) is not None)
