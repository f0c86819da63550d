"""Read the articles of a MediaWiki XML dump (pages-articles, .xml or .xml.bz2) as datatrove documents."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.readers.base import BaseDiskReader
from datatrove.utils.logging import logger

from data_prep.wikitext import plain_text

PROGRESS_EVERY = 10_000


@dataclass
class Page:
    """One page of a dump, as it stands there; a field that is missing there is an empty string."""

    title: str
    page_id: str
    namespace: str
    redirect: bool
    markup: str


def read_pages(stream: IO[bytes], name: str) -> Iterator[Page]:
    """Pages of a dump in their order, with memory for one page only.

    Args:
        stream: the XML, already decompressed.
        name: how to call the file in errors.
    Raises:
        ValueError: not a dump, not well-formed or cut off; names the file, the position and the last whole page.
    """
    count, title = 0, ""
    try:
        events = ElementTree.iterparse(stream, events=("start", "end"))
        _, root = next(events)
        if _local_name(root) != "mediawiki":
            raise ValueError(f"{name}: expected a MediaWiki dump (<mediawiki>), found <{_local_name(root)}>")
        for event, element in events:
            if event == "end" and _local_name(element) == "page":
                page = _to_page(element)
                count, title = count + 1, page.title
                yield page
                root.clear()  # the pages read so far would otherwise stay in memory
    except (ElementTree.ParseError, StopIteration, EOFError, OSError) as error:
        raise ValueError(
            f"{name}: damaged dump after {count} whole pages (the last: {title!r}): {error or 'the file is empty'}; "
            "fetch the file again"
        ) from None


def _local_name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _to_page(element: ElementTree.Element) -> Page:
    fields = {_local_name(child): child for child in element}
    # of a page with its history, the last revision is the current one
    revision = {_local_name(child): child for child in fields.get("revision", ())}
    return Page(
        title=_content(fields, "title").strip(),
        page_id=_content(fields, "id").strip(),
        namespace=_content(fields, "ns").strip(),
        redirect="redirect" in fields,
        markup=_content(revision, "text"),
    )


def _content(fields: dict[str, ElementTree.Element], name: str) -> str:
    return fields[name].text or "" if name in fields else ""


def to_document(page: Page) -> Document:
    """The page as a datatrove document: its markup, and what `ArticleFilter` needs to know about it."""
    metadata = {"title": page.title, "namespace": page.namespace, "redirect": page.redirect}
    return Document(text=page.markup, id=page.page_id, metadata=metadata)


class WikipediaDumpReader(BaseDiskReader):
    """datatrove reader of dumps: every page becomes a document with its markup; `ArticleFilter` makes text of it."""

    name = "📚 Wikipedia dump"

    def __init__(self, data_folder: str, glob_pattern: str | None = None):
        super().__init__(data_folder, glob_pattern=glob_pattern, recursive=False)

    def read_file(self, filepath: str) -> DocumentsPipeline:
        """Documents of one file; errors as in `read_pages`."""
        with self.data_folder.open(filepath, "rb", compression="infer") as stream:
            for number, page in enumerate(read_pages(stream, filepath), start=1):
                if number % PROGRESS_EVERY == 0:
                    logger.info(f"{filepath}: {number:,} pages")
                yield to_document(page)


class ArticleFilter(BaseFilter):
    """Keep articles, as plain text; each rejected page is counted under one reason.

    Reasons: malformed (no title or id), namespace (not an article), redirect, markup (cannot be parsed),
    short (fewer than `min_chars` characters of text).
    """

    name = "🧹 Wikipedia article"

    def __init__(self, min_chars: int):
        super().__init__()
        self.min_chars = min_chars

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Replace the document's markup by its text, or say why not."""
        if not doc.id or not doc.metadata["title"]:
            return False, "malformed"
        if doc.metadata["namespace"] != "0":
            return False, "namespace"
        if doc.metadata["redirect"]:
            return False, "redirect"
        try:
            doc.text = plain_text(doc.text)
        except ValueError:
            return False, "markup"
        if len(doc.text) < self.min_chars:
            return False, "short"
        return True
