"""Wikipedia dumps: every page is an article or rejected for a reason; damage is an error with file and position."""

import bz2
import io
import tracemalloc

import pytest
from datatrove.data import Document
from hypothesis import given
from hypothesis import strategies as st

from data_prep.formats import FORMATS, Rejected, lines
from data_prep.opening import DamagedFile, open_input

FORMAT = FORMATS["wikipedia"]
TEXT = "A river is water that flows. " * 3
PAGES = [
    ("River", 1, TEXT),
    ("Rivers", 2, "#REDIRECT [[River]]", 0, True),
    ("Talk:River", 3, TEXT, 1, False),
    ("Lake & <sea>", 5, f"'''Lake''' {TEXT}{{{{cite|a}}}}"),
    ("", 6, TEXT),
    ("Empty", 7, "{{cite|a}}"),
]


def records(content):
    stream = io.BytesIO(content if isinstance(content, bytes) else content.encode())
    return list(FORMAT.read(stream, "dump.xml"))


def page(title="T", page_id=1, text=TEXT, ns=0):
    return f"<page><title>{title}</title><ns>{ns}</ns><id>{page_id}</id><revision><text>{text}</text></revision></page>"


def dump(*pages, head=""):
    return f"<mediawiki>{head}{''.join(pages)}</mediawiki>"


def cleaned(content):
    """Texts of the documents of a dump."""
    documents = [record for record in records(content) if isinstance(record, Document)]
    for document in documents:
        FORMAT.clean(document)
    return [document.text for document in documents]


@pytest.mark.parametrize("name", ["dump.xml.bz2", "dump.xml"])
def test_articles_come_out_and_the_rest_is_counted(tmp_path, write_dump, name):
    with open_input(write_dump(tmp_path / name, PAGES)) as stream:
        river, *rejected, lake, malformed, empty = FORMAT.read(stream, name)
    assert rejected == [Rejected("redirect", "page 2 ('Rivers')"), Rejected("namespace", "page 3 ('Talk:River')")]
    assert malformed == Rejected("malformed", "page 5 ('')")
    assert (lake.id, lake.metadata) == ("5", {"title": "Lake & <sea>", "language": "en"})
    assert FORMAT.clean(river) is None and river.text == TEXT.strip()
    assert FORMAT.clean(lake) is None and lake.text == "Lake " + TEXT.strip()
    assert FORMAT.clean(empty) == "empty"


def test_the_last_of_several_revisions_counts():
    revisions = "<revision><id>1</id><text>old</text></revision><revision><id>2</id><text>new</text></revision>"
    xml = dump(f"<page><title>T</title><ns>0</ns><id>7</id>{revisions}</page>")
    assert [(record.id, record.text) for record in records(xml)] == [("7", "new")]


@pytest.mark.parametrize(
    "encoding", ["iso-8859-1", "windows-1252", "utf-16", "utf-8-sig", "utf-32", "shift_jis", "euc-jp", "gb18030"]
)
def test_any_encoding_is_read(encoding):
    title = "川と湖" if encoding in ("shift_jis", "euc-jp", "gb18030", "utf-32", "utf-16") else "église"
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    xml = f'<?xml version="1.0" encoding="{declared}"?>\n' + dump(page(title, text=title * 40_000))
    (record,) = records(xml.encode(encoding))
    assert record.metadata["title"] == title and record.text == title * 40_000


def test_files_and_categories_are_known_by_the_dumps_own_names():
    keys = {-2: "Medium", 0: "", 6: "Datei", 14: "Kategorie"}
    names = "".join(f'<namespace key="{key}">{name}</namespace>' for key, name in keys.items())
    head = f"<siteinfo><namespaces>{names}</namespaces></siteinfo>"
    text = "Fluss [[Datei:A.jpg|thumb|Ufer]][[File:B.jpg]][[Bild:C.jpg|Meer]]\n[[Kategorie:Flüsse]] fließt.\n"
    xml = dump(page(text=text + "== Weblinks ==\n* [[A]]\n"), head=head)
    assert cleaned(xml.replace("<mediawiki>", '<mediawiki xml:lang="de">')) == ["Fluss\nfließt."]
    # elsewhere these are words like any other
    assert "Kategorie:Flüsse" in cleaned(dump(page(text=text)))[0]
    assert "dropped_namespaces" in records(xml)[0].metadata


def test_memory_does_not_grow_with_the_dump_or_a_pages_history():
    def parts():
        yield b"<mediawiki>"
        for number in range(1500):
            yield b"<page><title>T%d</title><revision><text>%s</text></revision></page>" % (number, b"word " * 400)
        yield b"<page><title>T</title>"
        yield from [b"<revision><text>%s</text></revision>" % (b"word " * 400)] * 1500
        yield b"</page></mediawiki>"

    class Stream(io.RawIOBase):
        content = parts()

        def read(self, size=-1):
            return next(self.content, b"")

    tracemalloc.start()
    assert sum(1 for _ in FORMAT.read(Stream(), "x")) == 1501
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # the dump has 6 million bytes


def test_a_page_that_is_too_long_is_rejected_and_the_rest_is_read(monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 200)
    first, second, third = records(dump(page("A"), page("B", 2, "x" * 201), page("C", 3)))
    assert second == Rejected("too_long", "page 2 ('B')")
    assert (first.id, third.id) == ("1", "3")


DAMAGE = {
    "cut off": (lambda raw: raw[: len(raw) // 2], "the file ends before"),
    "cut off inside": (lambda raw: bz2.compress(bz2.decompress(raw)[:-40]), "after 5 whole pages.*line 7"),
    "empty": (lambda raw: b"", "empty: 0 bytes"),
    "empty inside": (lambda raw: bz2.compress(b""), "after 0 whole pages"),
    "no bzip2": (lambda raw: b"no bzip2 at all", "after 0 whole pages.*line 1"),
    "no UTF-8": (lambda raw: bz2.compress(bz2.decompress(raw).replace(b"Lake", b"\xff\xfe")), "after 3 .*line 5"),
    "other XML": (lambda raw: b"<html></html>", "expected a MediaWiki dump.*found <html>"),
    "deep": (lambda raw: b"<mediawiki>" * 100, "nested 50 deep"),
    "unknown encoding": (lambda raw: b'<?xml version="1.0" encoding="x-none"?><mediawiki/>', "line 1: unknown"),
    "no text encoding": (lambda raw: b'<?xml version="1.0" encoding="zlib"?><mediawiki/>', "line 1: unknown"),
    "other encoding": (
        lambda raw: b'<?xml version="1.0" encoding="euc-jp"?><mediawiki>\xff',
        "byte 51: no euc_jp text",
    ),
}


@pytest.mark.parametrize("damage, expected", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_dump_is_an_error_with_file_and_position(tmp_path, write_dump, damage, expected):
    path = write_dump(tmp_path / "dump.xml.bz2", PAGES)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedFile, match=expected) as error, open_input(path) as stream:
        list(FORMAT.read(stream, str(path)))
    assert "dump.xml.bz2" in str(error.value)


def test_pages_before_the_damage_come_out_first():
    found = []
    with pytest.raises(DamagedFile, match="after 2 whole pages .the last: 'B'."):
        for record in FORMAT.read(io.BytesIO(dump(page("A"), page("B", 2), "<page>")[:-12].encode()), "dump.xml"):
            found.append(record.metadata["title"])
    assert found == ["A", "B"]


WHOLE = dump(*(page(f"T{number}", number) for number in range(3))).encode()


@given(st.integers(0, len(WHOLE)), st.integers(0, 40), st.binary(max_size=12))
def test_a_changed_dump_is_read_or_refused_with_its_name(position, removed, inserted):
    changed = WHOLE[:position] + inserted + WHOLE[position + removed :]
    try:
        found = records(changed)
    except DamagedFile as error:
        assert "dump.xml" in str(error)
        return
    assert len(found) == changed.count(b"<page>")


@given(st.integers(0, 30), st.randoms(use_true_random=False))
def test_every_page_is_one_record(count, random):
    kinds = [
        page(),
        page(ns=4),
        page(""),
        "<page/>",
        page(text="&#xD7FF;"),
        page().replace("<title>", "<redirect/><title>"),
    ]
    assert len(records(dump(*(random.choice(kinds) for _ in range(count))))) == count


@pytest.mark.parametrize("declared", ['<!ENTITY a "aa"><!ENTITY b "&a;&a;">', '<!ENTITY a SYSTEM "file:///etc/hostname">'])
def test_a_dump_that_declares_entities_is_refused(declared):
    content = f'<?xml version="1.0"?><!DOCTYPE mediawiki [{declared}]>{dump(page(text="&a;"))}'
    with pytest.raises(DamagedFile, match="dump.xml: a document type declaration"):
        records(content)
