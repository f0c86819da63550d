"""Plain text: what stands between blank lines is one document."""

import io
import re

from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.formats import FORMATS, Rejected, lines

read = FORMATS["text"].read


def records(content):
    return list(read(io.BytesIO(content), "a.txt"))


def test_blank_lines_part_documents():
    found = records(b"\xef\xbb\xbf\r\nfirst line\r\nsecond line\r\n \t\r\n\r\nother\r\n")
    assert [(record.id, record.text) for record in found] == [("2", "first line\nsecond line"), ("6", "other")]


def test_nothing_gives_no_document():
    assert records(b"") == records(b"\n \n\r\n") == []


def test_one_bad_byte_rejects_its_document_only():
    found = records(b"a\n\nb\nc\xff\n\nd")
    assert [found[0].text, found[2].text] == ["a", "d"]
    assert found[1] == Rejected("encoding", "line 3")


def test_a_document_of_other_spaces_is_empty():
    assert records("\u00a0\u2003".encode()) == [Rejected("empty", "line 1")]


def test_a_document_may_be_too_long_by_one_line_or_by_many(monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 10)
    found = records(b"12345678901\nend\n\n12345\n6789\n\n12345\n67890\n\nlast")
    assert found[0] == Rejected("too_long", "line 1")
    assert found[1].text == "12345\n6789"
    assert found[2] == Rejected("too_long", "line 7")
    assert found[3].text == "last"


@settings(max_examples=100)
@given(st.lists(st.sampled_from([b"\n", b"\r\n", b"a", "é".encode(), b"\xff", b" ", b"\t", b"\0", b"\r"]), max_size=30))
def test_no_document_is_lost(parts):
    content = b"".join(parts)
    # runs of lines with something on them
    expected = re.findall(rb"(?:^[^\n]*[^\s][^\n]*(?:\n|\Z))+", content, re.MULTILINE)
    found = records(content)
    assert len(found) == len(expected)
    for record, block in zip(found, expected):
        if isinstance(record, Document):
            assert record.text == block.decode().removesuffix("\n").replace("\r\n", "\n").removesuffix("\r")
        else:
            assert record.reason == "encoding" and b"\xff" in block
