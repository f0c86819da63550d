"""Articles of a MediaWiki XML dump (pages-articles, or with history), which are made plain text."""

import xml.etree.ElementTree as ElementTree  # nosec B405  `_Dump` refuses what declares entities
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from datatrove.data import Document

from data_prep.formats import lines
from data_prep.formats.base import Format, Record, Rejected
from data_prep.formats.wiki_sites import site_of
from data_prep.formats.xml_chunks import xml_chunks
from data_prep.opening import DamagedFile
from data_prep.wikitext import plain_text

# Numbers of the namespaces whose links show a file or file the page under something: media, file, category.
DROPPED_KEYS = frozenset({"-2", "6", "14"})
XML_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
MAX_DEPTH = 50
PAGE = ("mediawiki", "page")
NAMESPACE = ("mediawiki", "siteinfo", "namespaces", "namespace")
# The elements whose text is wanted -> field of a page.
FIELDS = {
    (*PAGE, "title"): "title",
    (*PAGE, "id"): "page_id",
    (*PAGE, "ns"): "namespace",
    (*PAGE, "revision", "text"): "markup",
}


@dataclass
class Page:
    """One page of a dump, as it stands there; a field that is missing there is an empty string.

    too_long: some field has more than `lines.MAX_LINE_BYTES` characters; it is empty then.
    """

    title: str = ""
    page_id: str = ""
    namespace: str = ""
    redirect: bool = False
    markup: str = ""
    too_long: bool = False


class _Dump:
    """What the XML parser calls: collects finished pages, and what the dump says about its site."""

    def __init__(self, name: str):
        self.name = name
        self.language = ""
        self.namespaces: list[str] = []
        self.pages: list[Page] = []
        self._path: tuple[str, ...] = ()
        self._page = Page()
        self._wanted = False
        self._text: list[str] = []
        self._size = 0

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        """Dumps have none; one could declare entities that grow without end, or name files."""
        raise DamagedFile(
            f"{self.name}: a document type declaration (<!DOCTYPE {name}>), which no dump has; fetch it again"
        )

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path += (tag.rpartition("}")[2],)
        if len(self._path) > MAX_DEPTH:
            raise DamagedFile(f"{self.name}: elements are nested {MAX_DEPTH} deep, which no dump has; fetch it again")
        if len(self._path) == 1:
            if self._path[0] != "mediawiki":
                raise DamagedFile(
                    f"{self.name}: expected a MediaWiki dump (<mediawiki>), found <{self._path[0]}>; "
                    "name another format for this file"
                )
            self.language = attributes.get(XML_LANGUAGE, "")
        elif self._path == PAGE:
            self._page = Page()
        elif self._path == (*PAGE, "redirect"):
            self._page.redirect = True
        elif self._path == (*PAGE, "revision"):
            self._page.markup = ""  # of a page with its history, the last revision is the current one
        dropped = self._path == NAMESPACE and attributes.get("key") in DROPPED_KEYS
        self._wanted = dropped or self._path in FIELDS
        self._text, self._size = [], 0

    def data(self, text: str) -> None:
        if self._wanted:
            self._size += len(text)
            if self._size <= lines.MAX_LINE_BYTES:
                self._text.append(text)

    def end(self, tag: str) -> None:
        if self._wanted:
            text, too_long = "".join(self._text), self._size > lines.MAX_LINE_BYTES
            if self._path == NAMESPACE:
                self.namespaces.append(text)
            else:
                field = FIELDS[self._path]
                setattr(self._page, field, "" if too_long else text if field == "markup" else text.strip())
                self._page.too_long = too_long or (self._page.too_long and field != "markup")
        elif self._path == PAGE:
            self.pages.append(self._page)
        self._wanted = False
        self._path = self._path[:-1]


def read(stream: BinaryIO, name: str) -> Iterator[Record]:
    """A document with the markup of every article; `clean` makes text of it.

    Reasons: malformed (no title or id), namespace (no article), redirect, too_long. A document's id is the page's.

    Raises:
        DamagedFile: not a dump, not well-formed or cut off; names the file, the position and the last whole page.
    """
    dump = _Dump(name)
    for number, page in enumerate(_pages(stream, name, dump), start=1):
        yield _to_record(page, number, dump)


def _pages(stream: BinaryIO, name: str, dump: _Dump) -> Iterator[Page]:
    """Pages in their order, with memory for those of one piece of the file."""
    parser = ElementTree.XMLParser(target=dump)  # nosec B314
    count, title = 0, ""
    chunks = xml_chunks(stream, name)
    chunk: bytes | str | None = b""
    while chunk is not None:
        problem = None
        try:
            chunk = next(chunks, None)
            parser.close() if chunk is None else parser.feed(chunk)
        except (ElementTree.ParseError, ValueError) as error:
            problem = error
        for page in dump.pages:
            count, title = count + 1, page.title
            yield page
        dump.pages.clear()
        if isinstance(problem, DamagedFile):
            raise DamagedFile(f"{problem} (after {count} whole pages, the last: {title!r})")
        if problem:
            raise DamagedFile(
                f"{name}: damaged dump after {count} whole pages (the last: {title!r}): {problem}; fetch the file again"
            )


def _to_record(page: Page, number: int, dump: _Dump) -> Record:
    position = f"page {number} ({page.title!r})"
    if page.too_long:
        return Rejected("too_long", position)
    if not page.page_id or not page.title:
        return Rejected("malformed", position)
    if page.namespace != "0":
        return Rejected("namespace", position)
    if page.redirect:
        return Rejected("redirect", position)
    metadata = {"title": page.title, "language": dump.language, "dropped_namespaces": dump.namespaces}
    return Document(
        text=page.markup, id=page.page_id, metadata={key: value for key, value in metadata.items() if value}
    )


def clean(document: Document) -> str | None:
    """Replace markup by text, in place; "markup" when it cannot be parsed, "empty" when no text is left."""
    namespaces = tuple(document.metadata.pop("dropped_namespaces", ()))
    try:
        document.text = plain_text(document.text, site_of(document.metadata.get("language", ""), namespaces))
    except ValueError:
        return "markup"
    return None if document.text else "empty"


def recognizes(head: bytes) -> bool:
    """Whether a root element <mediawiki> begins in these bytes."""
    return b"<mediawiki" in head.replace(b"\0", b"")


FORMAT = Format("wikipedia", read, (".xml",), clean, recognizes)
