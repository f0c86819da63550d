"""Pieces of an XML file for a parser that knows few encodings."""

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO

from data_prep.opening import DamagedFile

CHUNK = 1 << 16
DECLARATION = re.compile(rb"""\A\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z][A-Za-z0-9._-]*)["']""")
# What expat reads by itself; it also tells UTF-16 by its byte order mark.
NATIVE = frozenset({"utf-8", "utf-16", "utf-16-be", "utf-16-le", "iso8859-1", "ascii"})
UTF_32_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}


def xml_chunks(stream: BinaryIO, name: str) -> Iterator[bytes | str]:
    """The content in pieces: as it is where expat knows its encoding, else as text.

    Raises:
        DamagedFile: the declared encoding is unknown, or the bytes are not of it.
    """
    chunk = stream.read(CHUNK)
    encoding = _foreign_encoding(chunk, name)
    decoder = encoding and codecs.getincrementaldecoder(encoding)()
    position = 0
    while chunk:
        try:
            yield decoder.decode(chunk) if decoder else chunk
            position += len(chunk)
            chunk = stream.read(CHUNK)
            if decoder and not chunk:
                decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise DamagedFile(
                f"{name}: byte {position + error.start:,}: no {encoding} text, which the file says it is; "
                "fetch the file again, or correct its XML declaration"
            ) from None


def _foreign_encoding(head: bytes, name: str) -> str | None:
    for mark, encoding in UTF_32_MARKS.items():
        if head.startswith(mark):
            return encoding
    if not (declared := DECLARATION.match(head)):
        return None
    encoding = declared[1].decode("ascii")
    try:
        b" ".decode(encoding, "ignore")  # refuses codecs that are not of text
        found = codecs.lookup(encoding).name
    except (LookupError, UnicodeError):
        raise DamagedFile(
            f"{name}: line 1: unknown encoding {encoding!r}; correct the XML declaration or convert the file to UTF-8"
        ) from None
    return None if found in NATIVE else found
