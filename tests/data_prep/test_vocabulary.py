"""The SentencePiece vocabulary: exact on any text, the same bytes every time, and fairseq's numbering."""

import pytest
import sentencepiece
from fairseq.data import Dictionary
from hypothesis import given
from hypothesis import strategies as st

from data_prep.vocabulary import dictionary_text, fairseq_ids, load_sentencepiece, train_sentencepiece
from data_prep.wikitext import plain_text, tidy


@pytest.fixture(scope="module")
def lines(write_articles):
    return [line for _, _, markup in write_articles(80) for line in plain_text(markup).split("\n")]


@pytest.fixture(scope="module")
def model(lines):
    return train_sentencepiece(lines, vocab_size=320)


@pytest.fixture(scope="module")
def processor(model):
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def test_training_twice_gives_the_same_bytes(lines, model):
    assert train_sentencepiece(lines, vocab_size=320) == model


def test_the_size_is_the_one_asked_for(processor):
    assert len(processor) == 320


def test_numbers_are_fairseqs(tmp_path, processor):
    symbols, ids = fairseq_ids(processor)
    path = tmp_path / "dict.txt"
    path.write_text(dictionary_text(symbols), encoding="utf-8")
    dictionary = Dictionary.load(str(path))
    assert len(dictionary) == 320
    assert [dictionary[ids[index]] for index in range(320)] == [processor.IdToPiece(index) for index in range(320)]
    # nothing to translate in a model of our own
    assert ids.tolist() == list(range(320))


def test_a_foreign_models_special_pieces_are_translated(tmp_path, lines):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(tmp_path / "m"), vocab_size=320, byte_fallback=True,
        control_symbols=["<mask>"], minloglevel=2,
    )  # fmt: skip
    foreign = load_sentencepiece(tmp_path / "m.model")
    symbols, ids = fairseq_ids(foreign)
    # its order is <unk>, <s>, </s>, <mask>, then bytes; it has no <pad>
    assert ids[:5].tolist() == [3, 0, 2, 4, 5]
    assert symbols[0] == "<mask>" and len(symbols) == 317


@given(st.text(max_size=100))
def test_text_survives_the_round_trip(processor, text):
    text = tidy(text)
    assert processor.DecodeIds(processor.EncodeAsIds(text)) == text


@given(st.text(max_size=50))
def test_no_text_is_unknown(processor, text):
    assert processor.unk_id() not in processor.EncodeAsIds(tidy(text))


def test_line_ends_are_kept(processor):
    assert processor.EncodeAsPieces("a\nb").count("<0x0A>") == 1
    assert processor.DecodeIds(processor.EncodeAsIds("a\nb\nc")) == "a\nb\nc"


def test_too_little_text_for_the_vocabulary_is_an_error():
    with pytest.raises(ValueError, match="vocabulary of 8000 pieces.*--vocab-size"):
        train_sentencepiece(["a few words"], vocab_size=8000)


def test_a_file_that_is_no_model_is_an_error(tmp_path):
    (tmp_path / "spm.model").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="no SentencePiece model"):
        load_sentencepiece(tmp_path / "spm.model")
