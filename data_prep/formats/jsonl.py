"""One JSON object a line: RedPajama, SlimPajama, C4, and other corpora with a text and perhaps its origin."""

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson
from datatrove.data import Document

from data_prep.cleaning import clean_document
from data_prep.formats.base import Format, Record, Rejected
from data_prep.formats.lines import BOM, numbered_lines

# Where the text is; raw_content_lines is a list of lines.
TEXT_KEYS = ("text", "content", "raw_content_lines")
# Names of the parts of a mixed corpus, in the order of preference: at the top, and in `meta`.
SOURCE_KEYS = ("red_pajama_subset",)
META_SOURCE_KEYS = ("redpajama_set_name", "pile_set_name", "source")
LAST_SOURCE_KEYS = ("source",)
NO_NAME = re.compile(r"[^A-Za-z0-9._+-]+")
LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*")
MAX_NAME = 64


def read(stream: BinaryIO, name: str) -> Iterator[Record]:
    """Documents of the lines, blank ones left out; a line that is none is rejected, so damage stays where it is.

    Reasons: too_long, encoding (no UTF-8), json, no_object, no_text (none of the keys), text_type, empty.
    A document's id is the number of its line.

    Raises:
        DamagedFile: the compressed data end or break off; with the number of the last line.
    """
    for number, line in numbered_lines(stream):
        if line is None:
            yield Rejected("too_long", f"line {number}")
        elif line and not line.isspace():
            yield to_record(line, number)


def to_record(line: bytes, number: int) -> Record:
    """The document of one line, or why it is none; the id is the line's number."""
    position = f"line {number}"
    try:
        entry = parse_json(line)
    except UnicodeDecodeError:
        return Rejected("encoding", position)
    except ValueError:
        return Rejected("json", position)
    if not isinstance(entry, dict):
        return Rejected("no_object", position)
    keys = [key for key in TEXT_KEYS if key in entry]
    if not keys:
        return Rejected("no_text", position)
    text = text_of(next((entry[key] for key in keys if entry[key] is not None), None))
    if text is None:
        return Rejected("text_type", position)
    if not text or text.isspace():
        return Rejected("empty", position)
    return Document(text=text, id=str(number), metadata=metadata_of(entry))


def parse_json(line: bytes) -> Any:
    """A line's value; ValueError when it is none, UnicodeDecodeError when it is no UTF-8."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        pass
    # what Python writes is not always JSON: NaN, halves of surrogate pairs; Python reads it
    try:
        return json.loads(line.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def text_of(value: Any) -> str | None:
    """The text that a value is: a string, or a list of lines; None for anything else."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return value if isinstance(value, str) else None


def metadata_of(entry: dict[str, Any]) -> dict[str, str]:
    """Language and source of an entry, as far as it has them as text.

    No title: with it a document is told from others by its id, which here is only the number of its line.
    """
    meta = entry.get("meta")
    if isinstance(meta, str):  # JSON within JSON, as RedPajama v1 is published
        try:
            meta = parse_json(meta.encode("utf-8", "replace"))
        except ValueError:
            meta = None
    meta = meta if isinstance(meta, dict) else {}
    places = (
        *((entry, key) for key in SOURCE_KEYS),
        *((meta, key) for key in META_SOURCE_KEYS),
        *((entry, key) for key in LAST_SOURCE_KEYS),
    )
    found = {
        "language": _first_string(entry.get("language"), meta.get("language")),
        "source": next((part for part in (source_name(place.get(key)) for place, key in places) if part), ""),
    }
    if not LANGUAGE.fullmatch(found["language"]):
        del found["language"]
    return {key: value for key, value in found.items() if value}


def source_name(value: Any) -> str:
    """A name that a folder can have, or "" where the value names no part of a corpus.

    RedPajama's web pages have the file and line as their source ("cc/2023-06/en_head_0000.json.gz/line12"): what
    stands before the first slash is the part. An address of a page is none.
    """
    if not isinstance(value, str) or "://" in value:
        return ""
    return NO_NAME.sub("_", value.partition("/")[0].strip()).lstrip("._+-")[:MAX_NAME]


def _first_string(*values: Any) -> str:
    return writable(next((value for value in values if isinstance(value, str)), ""))


def writable(text: str) -> str:
    """The text without lone surrogates, which no UTF-8 file can hold."""
    return text.encode("utf-8", "ignore").decode("utf-8")


def recognizes(head: bytes) -> bool:
    """Whether the first line is a JSON object, or begins like one that is longer than what is seen."""
    line, end, _ = head.removeprefix(BOM).lstrip().partition(b"\n")
    if not end and len(line) > 1 << 12:
        return line.startswith(b'{"')
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


FORMAT = Format("jsonl", read, (".jsonl", ".json", ".ndjson"), clean_document, recognizes)
