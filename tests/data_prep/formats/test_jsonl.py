"""JSON lines: every line is a document or rejected for a reason, and the part of a mixed corpus is found."""

import io
import json
import tracemalloc

import pytest
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.filters import position_of
from data_prep.formats import FORMATS, Rejected, lines

read = FORMATS["jsonl"].read


def records(content):
    return list(read(io.BytesIO(content), "a.jsonl"))


def only(entry):
    (record,) = records(json.dumps(entry).encode())
    return record


@pytest.mark.parametrize(
    "entry, text",
    [
        ({"text": "a"}, "a"),
        ({"content": "b"}, "b"),
        ({"raw_content_lines": ["c", "", "d"]}, "c\n\nd"),
        ({"text": None, "content": "b"}, "b"),
        ({"text": "a", "content": "b"}, "a"),
    ],
)
def test_the_text_is_found(entry, text):
    assert only(entry).text == text


@pytest.mark.parametrize(
    "entry, source",
    [
        ({"meta": {"redpajama_set_name": "RedPajamaC4"}}, "RedPajamaC4"),
        ({"meta": {"source": "x"}, "red_pajama_subset": "arxiv", "source": "y"}, "arxiv"),
        ({"meta": '{"source": "stackexchange"}'}, "stackexchange"),
        ({"meta": "{'timestamp': no JSON}", "source": "cc/2023-06/en_head_0000.json.gz/line12"}, "cc"),
        ({"meta": {"pile_set_name": "Pile-CC (2)"}}, "Pile-CC_2_"),
        ({"source": "../../etc/passwd"}, None),
        ({"source": "https://example.org/page"}, None),
        ({"source": ["a"], "meta": 3}, None),
        ({}, None),
    ],
)
def test_the_part_of_a_mixed_corpus_is_found(entry, source):
    assert only({"text": "a", **entry}).metadata.get("source") == source


def test_language_is_kept_where_it_is_text():
    assert only({"text": "a", "meta": {"language": "pt-BR"}}).metadata == {"language": "pt-BR"}
    assert only({"text": "a", "meta": {"language": [{"name": "C"}]}}).metadata == {}


def test_the_split_of_a_line_does_not_depend_on_its_place_nor_title():
    entries = [{"text": text, "title": title} for text, title in (("a", "T"), ("b", "T"), ("a", "U"))]
    first, other, copy = (position_of(record, "0") for record in records("\n".join(map(json.dumps, entries)).encode()))
    assert first == copy != other


@pytest.mark.parametrize(
    "line, reason",
    [
        (b'{"text": "a"', "json"),
        (b"no json", "json"),
        (b"[" * 100_000, "json"),
        (b'{"text": "\xff"}', "encoding"),
        (b'["text"]', "no_object"),
        (b'"text"', "no_object"),
        (b'{"body": "a"}', "no_text"),
        (b'{"text": 5}', "text_type"),
        (b'{"text": null}', "text_type"),
        (b'{"raw_content_lines": ["a", 5]}', "text_type"),
        (b'{"text": ""}', "empty"),
        (b'{"text": " \\n\\t"}', "empty"),
        (b'{"raw_content_lines": []}', "empty"),
    ],
)
def test_a_line_that_is_no_document_is_rejected_and_the_rest_is_read(line, reason):
    first, rejected, last = records(b'{"text": "a"}\n' + line + b'\n{"text": "z"}\n')
    assert (first.text, last.text) == ("a", "z")
    assert rejected == Rejected(reason, "line 2")


def test_what_python_writes_as_json_is_read():
    assert only({"text": "a", "score": float("nan")}).text == "a"
    record = only({"text": "a\ud800b"})
    assert FORMATS["jsonl"].clean(record) is None and record.text == "ab"


def test_bom_crlf_and_blank_lines_are_no_records():
    found = records(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}\r\n')
    assert [(record.text, record.id) for record in found] == [("a", "1"), ("b", "4")]
    assert records(b"") == records(b"\n\r\n") == records(b"\xef\xbb\xbf") == []


def test_a_line_that_is_too_long_is_skipped_without_holding_it(monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(lines, "SKIP_BYTES", 1000)

    class Huge(io.RawIOBase):
        parts = iter([b'{"text": "a"}\n', b'{"text": "', *[b"x" * 4000] * 1000, b'"}\n', b'{"text": "z"}'])

        def readable(self):
            return True

        def readinto(self, buffer):
            part = next(self.parts, b"")
            buffer[: len(part)] = part
            return len(part)

    tracemalloc.start()
    found = list(read(io.BufferedReader(Huge()), "a.jsonl"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[1] == Rejected("too_long", "line 2")
    assert [found[0].text, found[2].text, found[2].id] == ["a", "z", "3"]
    assert peak < 200_000  # the line has 4 million bytes


def test_a_line_of_just_the_limit_is_read(monkeypatch):
    line = b'{"text": "abc"}'
    for limit, accepted in ((len(line), True), (len(line) - 1, False)):
        monkeypatch.setattr(lines, "MAX_LINE_BYTES", limit)
        for end in (b"", b"\n"):
            (record,) = records(line + end)
            assert isinstance(record, Document) is accepted


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["text", "content", "raw_content_lines", "meta", "source", "red_pajama_subset", "title", "id"])
ENTRIES = st.dictionaries(KEYS, VALUES | st.text(), max_size=4).map(lambda entry: json.dumps(entry).encode())
LINES = st.lists(ENTRIES | st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=6)


@settings(max_examples=100)
@given(LINES, st.sampled_from([b"\n", b"\r\n"]), st.sampled_from([b"", b"\xef\xbb\xbf"]), st.booleans())
def test_no_line_is_lost_whatever_it_holds(contents, end, mark, ended):
    content = mark + end.join(contents) + (end if ended else b"")
    found = records(content)
    without_mark = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert len(found) == sum(1 for line in without_mark if line.strip(b" \t\r\x0b\x0c"))
    for record in found:
        if isinstance(record, Document):
            reason = FORMATS["jsonl"].clean(record)
            assert reason in (None, "empty") and bool(record.text) == (reason is None)
            json.dumps([record.text, record.metadata], ensure_ascii=False).encode("utf-8")
