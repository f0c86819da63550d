"""Translations of programs: gettext catalogs (.po). A translated message is a document.

Several catalogs may stand one after the other in a file. Entries are parted by blank lines, as every tool writes them.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import BinaryIO

import polib
from datatrove.data import Document

from data_prep.formats.base import Format, Record, Rejected
from data_prep.formats.lines import numbered_lines
from data_prep.formats.messages import clean_message, message_id

LONGEST_TITLE = 100
# An entry is read as a whole; longer ones are skipped without holding them.
LONGEST_ENTRY = 1 << 20
# Entries are parsed together up to this size, because starting polib costs ten times what an entry does.
BATCH = 1 << 16
ORIGINAL = re.compile(rb"^[ \t]*(?:#~[ \t]+)?msgid[ \t\"]", re.MULTILINE)
HEADER = re.compile(rb'^msgid ""\s*\nmsgstr ""', re.MULTILINE)
CHARSET = re.compile(rb"charset=([A-Za-z0-9_.:-]+)", re.IGNORECASE)
ENGLISH = re.compile(rb'^"Language: *en(?:[_@\\]|$)', re.MULTILINE)
# polib parts lines at these, gettext does not
OTHER_LINE_ENDS = re.compile(r"[\v\f\r\x1c-\x1e\x85\u2028\u2029]")
# polib passes over a missing quote at the end, and takes the last letter for it
NO_STRING = re.compile(
    r'^(?![ \t]*(?:#|$))(?!(?:[ \t]*msg[a-z_]+(?:\[\d+\])?)?[ \t]*"(?:[^"\\]|\\.)*"[ \t]*$)', re.MULTILINE
)
SURROGATE = re.compile(r"[\ud800-\udfff]")


def read_po(stream: BinaryIO, name: str) -> Iterator[Record]:
    """Messages of a file in their order, with memory for one entry, and for the ids.

    A document's id is a hash of the message's context and original, which is also its title: translations share both,
    and a split by them keeps all languages of a message on one side. Plural forms are the lines of one document.

    Reasons: syntax, too_long (more than LONGEST_ENTRY bytes), encoding, obsolete, fuzzy, untranslated, repeated (the
    file has had that message).

    Raises:
        DamagedFile: the compressed data end or break off.
    """
    charset, english, seen = "utf-8", False, set()
    for batch in _batches(_blocks(stream)):
        line, block = batch[0]
        if block is None:
            yield Rejected("too_long", f"line {line}")
            continue
        if HEADER.search(block):
            charset, english = _charset(block), ENGLISH.search(block) is not None
        for line, entry in _parse(batch, charset):
            if entry is None:
                yield Rejected("syntax", f"line {line}")
                continue
            reason, text = _text_of(entry, english)
            key = message_id(entry.msgctxt or "", entry.msgid)
            if not reason and key in seen:
                reason = "repeated"
            if reason:
                yield Rejected(reason, f"line {line}")
            else:
                seen.add(key)
                yield Document(text=text, id=key, metadata={"title": entry.msgid[:LONGEST_TITLE] or key})


def _batches(blocks: Iterable[tuple[int, bytes | None]]) -> Iterator[list[tuple[int, bytes | None]]]:
    """Blocks in groups; a header begins one, and what is too long is alone."""
    batch, size = [], 0
    for line, block in blocks:
        if batch and (block is None or size > BATCH or HEADER.search(block)):
            yield batch
            batch, size = [], 0
        if block is None:
            yield [(line, None)]
        else:
            batch.append((line, block))
            size += len(block)
    if batch:
        yield batch


def _blocks(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """(number of the first line, bytes) of what stands between blank lines, less mere comments; None if too long."""
    first, size, lines = 0, 0, []
    for number, line in chain(numbered_lines(stream, LONGEST_ENTRY), [(0, b"")]):
        if line is None or line.strip():
            first = first or number
            size += LONGEST_ENTRY + 1 if line is None else len(line) + 1
            if size <= LONGEST_ENTRY:
                lines.append(line)
            else:
                lines.clear()
            continue
        if size > LONGEST_ENTRY:
            yield first, None
        elif any(not text.startswith(b"#") or text.startswith(b"#~ ") for text in lines):
            yield first, b"\n".join(lines) + b"\n"
        first, size, lines = 0, 0, []


def _charset(header: bytes) -> str:
    """The charset that a header states, if quotes and line ends are in it what they are in ASCII; else UTF-8."""
    stated = CHARSET.search(header)
    name = stated[1].decode("ascii") if stated else "utf-8"
    try:
        known = b'a"\\\n'.decode(name, errors="surrogateescape") == 'a"\\\n'
    except (LookupError, ValueError):
        known = False  # such as the CHARSET of a template
    return name if known else "utf-8"


def _parse(batch: list[tuple[int, bytes]], charset: str) -> Iterator[tuple[int, polib.POEntry | None]]:
    """(line, entry) of every message of some blocks, without headers; None for a block that is no part of one."""
    first = batch[0][0]
    lines = []
    for line, block in batch:
        lines += [b""] * (line - first - len(lines))  # so that polib counts as we do
        lines += block.split(b"\n")[:-1]
    try:
        # the last line end keeps polib from taking a single line for a path
        text = b"\n".join([*lines, b""]).decode(charset, errors="surrogateescape")
        text = OTHER_LINE_ENDS.sub(" ", text).replace("\0", " ")
        catalog = polib.pofile(text, encoding="utf-8")
        count = len(catalog) + bool(catalog.metadata)
        whole = count == sum(len(ORIGINAL.findall(block)) for _, block in batch) and not NO_STRING.search(text)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        whole = False  # polib has no error of its own
    if whole:
        yield from ((first + max(entry.linenum, 1) - 1, entry) for entry in catalog)
    elif len(batch) == 1:
        yield first, None
    else:
        for block in batch:
            yield from _parse([block], charset)


def _text_of(entry: polib.POEntry, english: bool) -> tuple[str, str]:
    """(reason to reject it, text)."""
    if entry.obsolete:
        return "obsolete", ""
    if entry.fuzzy:
        return "fuzzy", ""
    forms = [entry.msgstr_plural[number] for number in sorted(entry.msgstr_plural)] or [entry.msgstr]
    if english and not any(forms) and " " in entry.msgid:
        # English catalogs are empty where the original is the text, and not a name such as label_add
        forms = [entry.msgid, entry.msgid_plural]
    text = "\n".join(dict.fromkeys(form.strip() for form in forms if form.strip()))
    if SURROGATE.search(text):
        return "encoding", ""
    return ("", text) if text else ("untranslated", "")


FORMAT = Format("po", read_po, (".po",), clean_message, lambda head: HEADER.search(head) is not None)
