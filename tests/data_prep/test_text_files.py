"""Text between the stages: whole files, and segments of them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.text_files import read_texts, segments_of


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text, "id": "0"}) + "\n" for text in texts), encoding="utf-8")
    return path


@given(texts=st.lists(st.text(max_size=30), max_size=12), size=st.integers(1, 90), chosen=st.sets(st.integers(0, 40)))
@settings(max_examples=30)
def test_every_document_belongs_to_one_segment(tmp_path_factory, texts, size, chosen):
    path = write(tmp_path_factory.mktemp("text") / "0.jsonl", texts)
    assert list(read_texts(path)) == texts
    by_segment = [list(read_texts(path, [segment], size)) for segment in segments_of(path, size)]
    assert [text for part in by_segment for text in part] == texts
    some = sorted(chosen & set(segments_of(path, size)))
    assert list(read_texts(path, some, size)) == [text for segment in some for text in by_segment[segment]]


@pytest.mark.parametrize("line", ['{"text": "cut of', '{"id": "0"}', "[]"])
def test_a_damaged_line_is_an_error_with_its_place(tmp_path, line):
    path = write(tmp_path / "0.jsonl", ["fine"])
    path.write_text(path.read_text() + line)
    with pytest.raises(ValueError, match=r"0.jsonl: the line at byte 28 is no document: .*delete the work folder"):
        list(read_texts(path))
