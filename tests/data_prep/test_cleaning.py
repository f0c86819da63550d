"""Light cleaning: what cannot be written or tokenized goes, code and paragraphs keep their form."""

import pytest
from datatrove.data import Document
from hypothesis import given
from hypothesis import strategies as st

from data_prep.cleaning import clean_document, clean_text


@pytest.mark.parametrize(
    "text, clean",
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("\n \n  def f():\n\n\treturn 1  \n\n", "  def f():\n\n\treturn 1"),
        ("a\0b\ud800c\udfffd", "abcd"),
        ("a\u2581b", "a_b"),
        ("👍 naïve  two spaces", "👍 naïve  two spaces"),
    ],
)
def test_examples(text, clean):
    assert clean_text(text) == clean


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_text_becomes_writable_and_stays_so(text):
    clean = clean_text(text)
    clean.encode("utf-8")
    assert not set("\0\r\u2581") & set(clean)
    assert clean_text(clean) == clean


def test_a_document_of_nothing_is_empty():
    document = Document(text=" \n\0\ud800 ", id="1")
    assert clean_document(document) == "empty"
    assert clean_document(Document(text="a", id="1")) is None
