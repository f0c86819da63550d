"""Gettext catalogs: what becomes a document, what is rejected and where, and that no message is lost."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.formats import FORMATS, Rejected
from data_prep.formats import po as po_module
from data_prep.formats.po import read_po

HEADER = 'msgid ""\nmsgstr ""\n"Language: {}\\n"\n"Content-Type: text/plain; charset={}\\n"\n\n'


def read(content, charset="utf-8"):
    content = content if isinstance(content, bytes) else content.encode(charset)
    return list(read_po(io.BytesIO(content), "de.po"))


def texts(records):
    return [record.text for record in records if not isinstance(record, Rejected)]


def rejected(records):
    return [tuple(record) for record in records if isinstance(record, Rejected)]


def entry(original, translation):
    return f'msgid "{original}"\nmsgstr "{translation}"\n\n'


def test_a_translation_is_a_document_and_the_header_is_none():
    assert texts(read(HEADER.format("de", "UTF-8") + entry("Open", "Öffnen"))) == ["Öffnen"]


def test_all_languages_of_a_message_have_one_id():
    german, french = read(entry("Open", "Öffnen"))[0], read(entry("Open", "Ouvrir"))[0]
    assert german.id == french.id
    assert read('msgctxt "door"\n' + entry("Open", "Auf"))[0].id != german.id


def test_plural_forms_are_lines_of_one_document():
    plural = 'msgid "a day"\nmsgid_plural "days"\nmsgstr[0] "ein Tag"\nmsgstr[1] "Tage"\nmsgstr[2] "Tage"\n'
    assert texts(read(plural)) == ["ein Tag\nTage"]


def test_what_is_no_finished_translation_is_rejected_with_its_line():
    content = entry("a", "") + "#, fuzzy\n" + entry("b", "B") + '#~ msgid "c"\n#~ msgstr "C"\n\n' + entry("d", "D") * 2
    found = read(content)
    assert texts(found) == ["D"]
    assert rejected(found) == [
        ("untranslated", "line 1"),
        ("fuzzy", "line 4"),
        ("obsolete", "line 8"),
        ("repeated", "line 14"),
    ]


def test_a_broken_entry_costs_no_other():
    content = entry("a", "A") + 'msgid "b"\nmsgstr "half\n\n' + 'msgid "alone"\n\n' + entry("c", "C") + "no catalog\n"
    found = read(content)
    assert texts(found) == ["A", "C"]
    assert rejected(found) == [("syntax", "line 4"), ("untranslated", "line 7"), ("syntax", "line 12")]


def test_several_catalogs_in_a_file_keep_their_charsets():
    first = (HEADER.format("de", "ISO-8859-1") + entry("Open", "Öffnen")).encode("latin-1")
    second = (HEADER.format("ru", "KOI8-R") + entry("Close", "Закрыть")).encode("koi8-r")
    assert texts(read(first + second)) == ["Öffnen", "Закрыть"]


def test_bytes_that_the_charset_has_not_reject_their_entry():
    found = read(entry("a", "A").encode() + b'msgid "b"\nmsgstr "\xff"\n\n' + entry("c", "C").encode())
    assert texts(found) == ["A", "C"] and rejected(found) == [("encoding", "line 4")]


def test_an_empty_english_catalog_stands_for_its_originals():
    content = entry("Sign in here", "") + entry("label_add", "")
    found = read(HEADER.format("en_GB", "UTF-8") + content)
    assert texts(found) == ["Sign in here"] and rejected(found) == [("untranslated", "line 9")]
    assert not texts(read(HEADER.format("eo", "UTF-8") + content))


def test_line_ends_and_byte_order_mark_make_no_difference():
    content = (HEADER.format("de", "UTF-8") + entry("Open", "Öffnen")).encode()
    expected = texts(read(content))
    assert texts(read(b"\xef\xbb\xbf" + content)) == texts(read(content.replace(b"\n", b"\r\n"))) == expected


def test_characters_that_part_lines_elsewhere_are_no_syntax_error():
    assert texts(read(entry("Open", "a\u2028b"))) == ["a b"]


def test_an_entry_that_is_too_long_is_skipped(monkeypatch):
    monkeypatch.setattr(po_module, "LONGEST_ENTRY", 64)
    found = read(entry("a", "x" * 100) + entry("b", '"\n"'.join(["y" * 20] * 5)) + entry("c", "C"))
    assert texts(found) == ["C"] and rejected(found) == [("too_long", "line 1"), ("too_long", "line 4")]


@pytest.mark.parametrize("size", [1, 40, 1 << 16])
def test_how_many_entries_are_parsed_together_changes_nothing(monkeypatch, size):
    content = "".join(entry(f"m{number}", f"M{number}" if number % 7 else "") for number in range(30)) + 'msgid "x\n'
    expected = read(content)
    monkeypatch.setattr(po_module, "BATCH", size)
    assert read(content) == expected and len(expected) == 31


def test_the_format_is_known_by_name_and_by_its_first_bytes():
    assert FORMATS["po"].endings == (".po",)
    assert FORMATS["po"].recognizes(HEADER.format("de", "UTF-8").encode())
    assert not FORMATS["po"].recognizes(b'{"text": "a"}')


PIECES = st.sampled_from(
    [b'msgid "a"', b'msgid "b', b'msgstr "A"', b'msgstr[0] "x"', b'"more"', b"#, fuzzy", b'#~ msgid "o"', b"#| x", b"",
     b"\r", b"\xff\xfe", b"\0", b'msgid ""', b'"Content-Type: text/plain; charset=utf-7\\n"', b"msgctxt", b"\x1f\x8b"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12), st.integers(0, 200))
@settings(max_examples=30)
def test_anything_is_read_to_its_end_and_every_reject_has_a_line(pieces, cut):
    content = b"\n".join(pieces)[:cut]
    found = read(content + b"\n\n" + entry("last", "Z").encode())
    assert isinstance(found[-1], Rejected) or found[-1].text == "Z"
    assert all(record.position.startswith("line ") for record in found if isinstance(record, Rejected))
    accepted = [record for record in found if not isinstance(record, Rejected)]
    assert len({record.id for record in accepted}) == len(accepted)


@given(st.lists(st.tuples(st.text("ab", min_size=1), st.text("xyz")), max_size=20))
@settings(max_examples=30)
def test_accepted_and_rejected_are_the_messages_of_the_file(messages):
    found = read("".join(entry(original, translation) for original, translation in messages))
    assert len(found) == len(messages)
