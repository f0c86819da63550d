"""Text to pieces and back, as fairseq-interactive and fairseq-generate ask for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.wikitext import tidy
from fairseq_mhmoe.data.checks import load_dictionary
from fairseq_mhmoe.data.text import SentencePieceText


@pytest.fixture(scope="module")
def dictionary(tiny_data_dir):
    return load_dictionary(tiny_data_dir)


@pytest.fixture(scope="module")
def text(tiny_data_dir, dictionary):
    return SentencePieceText(tiny_data_dir / "spm.model", dictionary)


@given(st.text(max_size=80).map(tidy))
def test_text_survives_fairseqs_ids(text, dictionary, original):
    ids = dictionary.encode_line(text.encode(original), add_if_not_exist=False)
    assert dictionary.unk() not in ids
    assert text.decode(dictionary.string(ids)) == original


def test_ids_are_those_of_the_prepared_data(text, dictionary):
    ids = dictionary.encode_line(text.encode("The river"), add_if_not_exist=False).tolist()
    assert ids == [*text.processor.EncodeAsIds("The river"), dictionary.eos()]


def test_nothing_decodes_to_nothing(text):
    assert text.encode("") == "" and text.decode("") == ""


def test_another_vocabulary_is_an_error(tmp_path, tiny_data_dir, dictionary):
    (tmp_path / "dict.txt").write_text("a 1\n")
    with pytest.raises(ValueError, match="wrong vocabulary: the dictionary lacks 31[0-9] pieces"):
        SentencePieceText(tiny_data_dir / "spm.model", load_dictionary(tmp_path))


def test_no_model_is_an_error(tmp_path, dictionary):
    with pytest.raises(ValueError, match="no SentencePiece model"):
        SentencePieceText(tmp_path / "none", dictionary)
    (tmp_path / "spm.model").write_bytes(b"")
    with pytest.raises(ValueError, match="is no SentencePiece model"):
        SentencePieceText(tmp_path / "spm.model", dictionary)
