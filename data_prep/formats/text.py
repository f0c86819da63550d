"""Plain text with blank lines between documents."""

from collections.abc import Iterator
from typing import BinaryIO

from datatrove.data import Document

from data_prep.cleaning import clean_document
from data_prep.formats import lines
from data_prep.formats.base import Format, Record, Rejected


def read(stream: BinaryIO, name: str) -> Iterator[Record]:
    """One document for all lines up to the next blank one; its id is the number of its first line.

    Reasons: encoding (no UTF-8), too_long (the document, not only a line), empty (of spaces that are not ASCII).

    Raises:
        DamagedFile: the compressed data end or break off; with the number of the last line.
    """
    block = Block()
    for number, line in lines.numbered_lines(stream):
        if line is None or (line and not line.isspace()):
            block.add(number, line)
        elif block.first_line:
            yield block.to_record()
            block = Block()
    if block.first_line:
        yield block.to_record()


class Block:
    """Lines of one document, as long as they are not too many bytes."""

    def __init__(self):
        self.first_line = 0
        self.lines: list[bytes] = []
        self.size = 0

    def add(self, number: int, line: bytes | None) -> None:
        self.first_line = self.first_line or number
        self.size += lines.MAX_LINE_BYTES + 1 if line is None else len(line) + 1
        if self.size > lines.MAX_LINE_BYTES + 1:
            self.lines = []
        else:
            self.lines.append(line)

    def to_record(self) -> Record:
        position = f"line {self.first_line}"
        if self.size > lines.MAX_LINE_BYTES + 1:
            return Rejected("too_long", position)
        try:
            text = b"\n".join(self.lines).decode("utf-8")
        except UnicodeDecodeError:
            return Rejected("encoding", position)
        if not text or text.isspace():
            return Rejected("empty", position)
        return Document(text=text, id=str(self.first_line))


FORMAT = Format("text", read, (".txt", ".text"), clean_document)
