"""WikiExtractor's output in both of its forms: no block is lost, entities and leftovers of markup become text."""

import io
import json

import pytest
from datatrove.data import Document
from hypothesis import given
from hypothesis import strategies as st

from data_prep.formats import FORMATS, Rejected, lines

FORMAT = FORMATS["wikiextractor"]
START = '<doc id="12" url="https://de.wikipedia.org/wiki?curid=12" title="Der &quot;Rhein&quot; &amp; "mehr"">'
BLOCK = f'{START}\nDer "Rhein" &amp; "mehr"\n\nDer Rhein &lt; 1300 km.\n&lt;br&gt;Er fließt.\n\n</doc>\n'


def records(content):
    return list(FORMAT.read(io.BytesIO(content if isinstance(content, bytes) else content.encode()), "wiki_00"))


def test_a_block_becomes_a_document_without_the_title_above_it():
    (record,) = records(BLOCK)
    assert record.id == "12"
    assert record.metadata == {"title": 'Der "Rhein" & "mehr"', "language": "de"}
    assert FORMAT.clean(record) is None
    assert record.text == "Der Rhein < 1300 km.\nEr fließt."


def test_both_forms_give_the_same_text():
    entry = {
        "id": "12",
        "revid": "1",
        "url": "https://de.wikipedia.org/wiki?curid=12",
        "title": 'Der "Rhein" & "mehr"',
        "text": "Der Rhein &lt; 1300 km.\n&lt;br&gt;Er fließt.",
    }
    (one,), (other,) = records(json.dumps(entry)), records(BLOCK)
    assert FORMAT.clean(one) is None and FORMAT.clean(other) is None
    assert (one.id, one.text, one.metadata) == (other.id, other.text, other.metadata)


@pytest.mark.parametrize(
    "content, expected",
    [
        ("stray\nlines\n" + BLOCK, [("outside", "line 1"), None]),
        (BLOCK + "stray", [None, ("outside", "line 8")]),
        (START + "\ntext\n" + BLOCK, [("cut_off", "line 1"), None]),
        (BLOCK + START + "\ntext", [None, ("cut_off", "line 8")]),
        (START, [("cut_off", "line 1")]),
        ('<doc url="x">\ntext\n</doc>\n' + BLOCK, [("malformed", "line 1"), None]),
        (START + "\n</doc>\n" + BLOCK, [("empty", "line 1"), None]),
        (BLOCK.encode().replace(b"1300", b"\xff") + BLOCK.encode(), [("encoding", "line 1"), None]),
        (BLOCK.encode().replace(b"Rhein", b"\xff", 1) + BLOCK.encode(), [("encoding", "line 1"), None]),
        ('{"id": "1"}\n{"text": "a"\n' + BLOCK, [("no_text", "line 1"), ("json", "line 2"), None]),
        ('stray\n{"id": "1", "text": "a"}', [("outside", "line 1"), None]),
        ("</doc>\n" + BLOCK, [("outside", "line 1"), None]),
    ],
)
def test_what_is_no_document_is_rejected_with_its_line(content, expected):
    found = [tuple(record) if isinstance(record, Rejected) else None for record in records(content)]
    assert found == expected


def test_bom_crlf_and_nothing():
    (record,) = records(b"\xef\xbb\xbf" + BLOCK.replace("\n", "\r\n").encode())
    assert FORMAT.clean(record) is None and record.text == "Der Rhein < 1300 km.\nEr fließt."
    assert records(b"") == records(b"\n\r\n") == []


def test_a_block_that_is_too_long_is_rejected_and_the_rest_is_read(monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 150)
    first, second = records(BLOCK.replace("fließt", "x" * 200) + BLOCK)
    assert first == Rejected("too_long", "line 1")
    assert second.id == "12"
    assert records(BLOCK.replace("fließt", "x\n" * 100)) == [Rejected("too_long", "line 1")]


def test_a_document_whose_markup_leaves_nothing_is_empty():
    document = Document(text="&lt;ref&gt;a&lt;/ref&gt;", id="1")
    assert FORMAT.clean(document) == "empty"


def test_marks_of_sections_and_list_items_go():
    document = Document(text="Lead.\nSection::::History.\nBULLET::::- an item\n", id="1")
    assert FORMAT.clean(document) is None and document.text == "Lead.\nHistory.\nan item"


PIECES = {BLOCK: 1, START + "\ntext\n</doc>\n": 1, '{"text": "a"}\n': 1, "{\n": 1, "\n": 0}


@given(st.lists(st.sampled_from(list(PIECES)), max_size=12))
def test_no_block_is_lost(pieces):
    assert len(records("".join(pieces))) == sum(PIECES[piece] for piece in pieces)
