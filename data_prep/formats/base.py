"""What a format is: a name, a reader of records, the endings of its files' names, and a cleaner of its texts."""

from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from datatrove.data import Document


class Rejected(NamedTuple):
    """A record that is no document: why, and where in the file it stands ("line 12", "page 7 ('Title')")."""

    reason: str
    position: str


Record = Document | Rejected


class Format(NamedTuple):
    """How the files of one kind are read.

    name: what it is called in recipes and on the command line.
    read: (content, name for errors) -> every record of the file in its order; DamagedFile with the position when the
        rest of the file cannot be read. A document has an id that no other of the file has, and in its metadata, where
        the file tells: title, language, source (the part of a mixed corpus).
    endings: of file names, with the dot, without those of compressions.
    clean: makes clean text of a document, in place -> the reason to reject it, or None.
    recognizes: whether the first bytes of a file (some thousand) are of this format; for files whose name tells too
        little.
    """

    name: str
    read: Callable[[BinaryIO, str], Iterator[Record]]
    endings: tuple[str, ...]
    clean: Callable[[Document], str | None]
    recognizes: Callable[[bytes], bool] | None = None
