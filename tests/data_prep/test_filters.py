"""Filters judge a document by itself alone."""

from datatrove.data import Document

from data_prep.filters import LengthFilter, SampleFilter, position_of


def document(text, title=None, document_id="1"):
    return Document(text=text, id=document_id, metadata={"title": title})


def test_lengths_are_inclusive():
    lengths = LengthFilter(min_chars=2, max_chars=4)
    assert [lengths.reason(document("x" * n)) for n in range(1, 6)] == ["short", None, None, None, "long"]


def test_nothing_is_never_a_document():
    assert LengthFilter(min_chars=0).reason(document("")) == "empty"


def test_a_sample_has_about_its_share_and_a_larger_one_contains_it():
    documents = [document(f"text {number}") for number in range(2000)]
    taken = {
        share: {index for index, item in enumerate(documents) if SampleFilter(share, 3).reason(item) is None}
        for share in (0.2, 0.5, 1.0)
    }
    assert abs(len(taken[0.2]) / 2000 - 0.2) < 0.03 and len(taken[1.0]) == 2000
    assert taken[0.2] < taken[0.5]
    assert {i for i, item in enumerate(documents) if SampleFilter(0.2, 4).reason(item) is None} != taken[0.2]


def test_titled_documents_are_told_apart_by_id_and_title_others_by_text():
    assert position_of(document("a", "T"), "s") == position_of(document("b", "T"), "s")
    assert position_of(document("a", "T"), "s") != position_of(document("a", "T", "2"), "s")
    assert position_of(document("a"), "s") == position_of(document("a", None, "2"), "s")
    assert position_of(document("a"), "s") != position_of(document("b"), "s")


def test_halves_of_surrogate_pairs_have_a_place_too():
    assert 0 <= position_of(document("\ud800"), "s") < 1
