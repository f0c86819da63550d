"""Output of WikiExtractor: <doc ...> blocks, or one JSON object a line (its option --json)."""

import html
import re
from collections.abc import Iterator
from typing import BinaryIO

from datatrove.data import Document

from data_prep.formats import jsonl, lines
from data_prep.formats.base import Format, Record, Rejected
from data_prep.formats.text import Block
from data_prep.formats.wiki_sites import site_of
from data_prep.wikitext import plain_text

START = re.compile(rb"<doc\s.*>\s*\Z")
END = b"</doc>"
MAX_START_BYTES = 4096
# titles may hold quotes: a value ends where the next name, or the tag's end, follows
ATTRIBUTE = re.compile(r'(\w+)="(.*?)"(?=\s+\w+="|\s*>\s*\Z)')
# how --sections and --lists of older versions begin a line
MARKS = re.compile(r"^(?:Section::::|BULLET::::-? ?)", re.MULTILINE)
LANGUAGE_IN_URL = re.compile(r"https?://([a-z]{2,3}(?:-[a-z]+)*)\.(?:m\.)?wiki")


def read(stream: BinaryIO, name: str) -> Iterator[Record]:
    """A document of every block or JSON object; `clean` removes what WikiExtractor leaves of the markup.

    Reasons: malformed (a block without id), cut_off (a block without its end), outside (lines between blocks),
    encoding, too_long, empty, and those of JSON lines.

    Raises:
        DamagedFile: the compressed data end or break off; with the number of the last line.
    """
    block, start = Block(), None  # start: the line <doc ...> while inside of a block
    for number, line in lines.numbered_lines(stream):
        begins = line is not None and len(line) <= MAX_START_BYTES and START.match(line)
        ends = start is not None and line is not None and line.rstrip() == END
        if start is None and line and line.lstrip().startswith(b"{"):
            yield from _outside(block)
            block = Block()
            yield _from_json(line, number)
        elif begins:
            yield from _outside(block) if start is None else [Rejected("cut_off", f"line {block.first_line}")]
            block, start = Block(), line
            block.first_line = number
        elif ends:
            yield _from_block(start, block)
            block, start = Block(), None
        elif start is not None or line is None or (line and not line.isspace()):
            block.add(number, line)
    yield from _outside(block) if start is None else [Rejected("cut_off", f"line {block.first_line}")]


def _outside(block: Block) -> Iterator[Rejected]:
    if block.first_line:
        yield Rejected("outside", f"line {block.first_line}")


def _from_json(line: bytes, number: int) -> Record:
    record = jsonl.to_record(line, number)
    if isinstance(record, Document):
        entry = jsonl.parse_json(line)
        if entry.get("id") and isinstance(entry["id"], str | int):
            record.id = jsonl.writable(str(entry["id"]))
            if isinstance(entry.get("title"), str) and entry["title"]:
                record.metadata["title"] = jsonl.writable(entry["title"])
        if isinstance(entry.get("url"), str):
            record.metadata |= _language(entry["url"])
    return record


def _from_block(start: bytes, block: Block) -> Record:
    position = f"line {block.first_line}"
    try:
        found = dict(ATTRIBUTE.findall(start.decode("utf-8")))
    except UnicodeDecodeError:
        return Rejected("encoding", position)
    page_id, title = found.get("id", "").strip(), html.unescape(found.get("title", "")).strip()
    if not page_id:
        return Rejected("malformed", position)
    record = block.to_record()
    if isinstance(record, Document):
        record.id = page_id
        record.metadata = _language(found.get("url", ""))
        if title:
            record.metadata["title"] = jsonl.writable(title)
            # the page's title stands above its text, which it does not in a dump
            first, _, rest = record.text.partition("\n")
            record.text = rest if html.unescape(first).strip() == title else record.text
    return record


def _language(url: str) -> dict[str, str]:
    found = LANGUAGE_IN_URL.match(url)
    return {"language": found[1]} if found else {}


def clean(document: Document) -> str | None:
    """Replace entities and leftovers of markup by text, in place; "markup", "empty" as for a dump."""
    try:
        text = MARKS.sub("", html.unescape(document.text))
        document.text = plain_text(text, site_of(document.metadata.get("language", "")))
    except ValueError:
        return "markup"
    return None if document.text else "empty"


def recognizes(head: bytes) -> bool:
    """Whether a <doc> block begins the file, or a JSON object of a wiki's page."""
    head = head.removeprefix(lines.BOM).lstrip()
    return head.startswith(b"<doc ") or (head.startswith(b'{"') and b"curid=" in head and b'"title":' in head)


FORMAT = Format("wikiextractor", read, (), clean, recognizes)
