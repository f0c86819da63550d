"""The dump reader: every page read is accepted or rejected for a reason; damage is an error with file and position."""

import bz2
import io
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.wikipedia import ArticleFilter, WikipediaDumpReader, read_pages, to_document

TEXT = "A river is water that flows. " * 3
PAGES = [
    ("River", 1, TEXT),
    ("Rivers", 2, "#REDIRECT [[River]]", 0, True),
    ("Talk:River", 3, TEXT, 1, False),
    ("Stub", 4, "Short."),
    ("Lake & <sea>", 5, f"'''Lake''' {TEXT}{{{{cite|a}}}}"),
    ("", 6, TEXT),
    ("Empty", 7, ""),
]


def read(path):
    """Accepted documents, and the filter's counts."""
    cleaner = ArticleFilter(min_chars=20)
    documents = list(cleaner.run(WikipediaDumpReader(str(path.parent), glob_pattern=path.name).run()))
    return documents, {label: stat.total for label, stat in cleaner.stats.stats.items()}


@pytest.mark.parametrize("name", ["dump.xml.bz2", "dump.xml"])
def test_articles_come_out_and_the_rest_is_counted(tmp_path, write_dump, name):
    documents, counts = read(write_dump(tmp_path / name, PAGES))
    assert [(document.id, document.metadata["title"]) for document in documents] == [
        ("1", "River"),
        ("5", "Lake & <sea>"),
    ]
    assert documents[1].text.startswith("Lake A river is") and "cite" not in documents[1].text
    rejected = {label: count for label, count in counts.items() if label.startswith("dropped_")}
    assert rejected == {"dropped_redirect": 1, "dropped_namespace": 1, "dropped_short": 2, "dropped_malformed": 1}
    assert counts["total"] == len(PAGES) == counts["forwarded"] + sum(rejected.values())


def test_several_bz2_streams_in_one_file_are_read(tmp_path, write_dump):
    content = bz2.decompress(write_dump(tmp_path / "one.xml.bz2", PAGES).read_bytes())
    path = tmp_path / "streams.xml.bz2"
    path.write_bytes(bz2.compress(content[:500]) + bz2.compress(content[500:]))
    assert len(read(path)[0]) == 2


def test_the_last_of_several_revisions_counts(tmp_path):
    xml = (
        "<mediawiki><page><title>T</title><ns>0</ns><id>1</id><revision><id>1</id><text>old</text></revision>"
        "<revision><id>2</id><text>new</text></revision></page></mediawiki>"
    )
    assert [page.markup for page in read_pages(io.BytesIO(xml.encode()), "x")] == ["new"]


def test_other_encodings_are_read():
    xml = '<?xml version="1.0" encoding="iso-8859-1"?><mediawiki><page><title>é</title></page></mediawiki>'
    assert [page.title for page in read_pages(io.BytesIO(xml.encode("latin-1")), "x")] == ["é"]


def test_memory_does_not_grow_with_the_dump():
    def dump():
        yield b"<mediawiki>"
        for number in range(4000):
            yield b"<page><title>T%d</title><revision><text>%s</text></revision></page>" % (number, b"word " * 400)
        yield b"</mediawiki>"

    class Stream(io.RawIOBase):
        parts = dump()

        def read(self, size=-1):
            return next(self.parts, b"")

    tracemalloc.start()
    assert sum(1 for _ in read_pages(Stream(), "x")) == 4000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # the dump has 8 million bytes


@pytest.mark.parametrize(
    "damage, expected",
    [
        (lambda raw: raw[: len(raw) // 2], "ended before"),
        (lambda raw: b"", "after 0 whole pages"),
        (lambda raw: b"no bzip2 at all", "Invalid data stream"),
        (lambda raw: bz2.compress(bz2.decompress(raw)[:-40]), "line"),
        (lambda raw: bz2.compress(bz2.decompress(raw).replace(b"Lake", b"\xff\xfe")), "not well-formed"),
        (lambda raw: bz2.compress(b"<html></html>"), "found <html>"),
    ],
)
def test_a_damaged_dump_is_an_error_with_file_and_position(tmp_path, write_dump, damage, expected):
    path = write_dump(tmp_path / "dump.xml.bz2", PAGES)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=expected) as error:
        read(path)
    assert "dump.xml.bz2" in str(error.value)


DUMP = "<mediawiki>" + "".join(
    f"<page><title>T{n}</title><ns>0</ns><id>{n}</id><revision><text>{TEXT}</text></revision></page>" for n in range(3)
)
DUMP = (DUMP + "</mediawiki>").encode()


@given(st.integers(0, len(DUMP)), st.integers(0, 40), st.binary(max_size=12))
def test_a_changed_dump_is_read_or_refused_with_its_name(position, removed, inserted):
    changed = DUMP[:position] + inserted + DUMP[position + removed :]
    cleaner = ArticleFilter(min_chars=20)
    try:
        pages = list(read_pages(io.BytesIO(changed), "dump.xml"))
    except ValueError as error:
        assert "dump.xml" in str(error)
        return
    accepted = sum(1 for _ in cleaner.run(map(to_document, pages)))
    counts = {label: stat.total for label, stat in cleaner.stats.stats.items()}
    dropped = sum(count for label, count in counts.items() if label.startswith("dropped_"))
    assert accepted + dropped == len(pages)
