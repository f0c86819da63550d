"""Text to pieces and back, as fairseq-interactive and fairseq-generate ask for it."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.tokenizers import load_tokenizer
from data_prep.tokenizers.dictionary import dictionary_text
from data_prep.vocabulary import train_sentencepiece
from data_prep.wikitext import tidy
from fairseq_mhmoe.data.checks import load_dictionary
from fairseq_mhmoe.data.text import SentencePieceText, TiktokenText


@pytest.fixture(scope="module")
def dictionary(tiny_data_dir):
    return load_dictionary(tiny_data_dir)


@pytest.fixture(scope="module")
def text(tiny_data_dir, dictionary):
    return SentencePieceText(tiny_data_dir / "spm.model", dictionary)


@given(st.text(max_size=80).map(tidy))
@settings(max_examples=30)
def test_text_survives_fairseqs_ids(text, dictionary, original):
    ids = dictionary.encode_line(text.encode(original), add_if_not_exist=False)
    assert dictionary.unk() not in ids
    assert text.decode(dictionary.string(ids)) == original


def test_ids_are_those_of_the_prepared_data(text, dictionary):
    ids = dictionary.encode_line(text.encode("The river"), add_if_not_exist=False).tolist()
    assert ids == [*text.processor.EncodeAsIds("The river"), dictionary.eos()]


def test_nothing_decodes_to_nothing(text):
    assert text.encode("") == "" and text.decode("") == ""


@given(st.text(max_size=80).map(tidy))
@settings(max_examples=30)
def test_bytes_of_the_pieces_are_the_text(text, original):
    symbols = text.encode(original).split(" ") if original else []
    assert b"".join(map(text.bytes_of, symbols)).decode() == (" " + original if original else "")


def test_bytes_of_special_symbols(text):
    assert [text.bytes_of(symbol) for symbol in ("<s>", "</s>", "<pad>", "<unk>")] == [b"", b"", b"", b"\xef\xbf\xbd"]
    assert text.bytes_of("<0xC3>") == b"\xc3"


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


def dictionary_of(tokenizer, folder):
    (folder / "dict.txt").write_text(dictionary_text(tokenizer.symbols), encoding="utf-8")
    return load_dictionary(folder)


def through_fairseq(text, dictionary, original):
    ids = dictionary.encode_line(text.encode(original), add_if_not_exist=False)
    return ids.tolist(), text.decode(dictionary.string(ids))


def test_pieces_with_white_space_survive_fairseqs_splitting(tmp_path, write_articles):
    lines = [markup for _, _, markup in write_articles(40)] + ["a\u00a0b\tc\u3000d\u2028e"] * 50
    (tmp_path / "spm.model").write_bytes(train_sentencepiece(lines, 350, character_coverage=1.0))
    tokenizer = load_tokenizer(tmp_path / "spm.model")
    assert any("<U+00A0>" in symbol for symbol in tokenizer.symbols)
    dictionary = dictionary_of(tokenizer, tmp_path)
    text = SentencePieceText(tmp_path / "spm.model", dictionary)
    original = "of\u00a0a \t river\u3000 \u2028\nb"
    ids, decoded = through_fairseq(text, dictionary, original)
    assert decoded == original
    assert ids == [*tokenizer.encode([original])[0], dictionary.eos()]


@pytest.fixture(scope="module")
def rank_folder(tmp_path_factory):
    """A .tiktoken file with its dict.txt."""
    folder = tmp_path_factory.mktemp("ranks")
    tokens = [bytes([255 - byte]) for byte in range(256)] + [b"th", b" t", b" th"]
    content = b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
    (folder / "tokenizer.tiktoken").write_bytes(content)
    dictionary_of(load_tokenizer(folder / "tokenizer.tiktoken"), folder)
    return folder


@pytest.fixture(scope="module")
def rank_text(rank_folder):
    return TiktokenText(rank_folder / "tokenizer.tiktoken", load_dictionary(rank_folder))


@given(st.text(max_size=80))
@settings(max_examples=30)
def test_text_survives_as_ranks(rank_folder, rank_text, original):
    ids, decoded = through_fairseq(rank_text, load_dictionary(rank_folder), original)
    assert decoded == original
    (expected,) = load_tokenizer(rank_folder / "tokenizer.tiktoken").encode([original])
    assert ids[:-1] == expected.tolist()


def test_ranks_of_merged_bytes(rank_text):
    assert rank_text.encode("th th") == "256 258"
    assert rank_text.encode("") == "" and rank_text.decode("") == ""


def test_what_is_no_whole_character_is_marked(rank_text):
    first, _ = rank_text.encode("\u00e9").split()
    assert rank_text.decode(f"256 {first}") == "th\ufffd"
    assert rank_text.decode("256 <<unk>> 256 <pad> </s>") == "th\ufffdth"
    assert rank_text.decode("999 <unk>") == "\ufffd\ufffd"
    assert rank_text.bytes_of(first) == b"\xc3" and rank_text.bytes_of("</s>") == b""


def test_ranks_that_the_dictionary_lacks_are_an_error(tmp_path, rank_folder):
    (tmp_path / "dict.txt").write_text("0 1\n")
    with pytest.raises(ValueError, match="wrong vocabulary: the dictionary lacks 258 pieces of .*tokenizer.tiktoken"):
        TiktokenText(rank_folder / "tokenizer.tiktoken", load_dictionary(tmp_path))
