"""SentencePiece models: numbering of any layout, and long documents."""

import numpy as np
import pytest
from fairseq.data import Dictionary

from data_prep.tokenizers import pieces, windows
from data_prep.tokenizers.dictionary import dictionary_text
from data_prep.tokenizers.pieces import SentencePieceTokenizer, fairseq_ids, load_sentencepiece


def fairseq_dictionary(symbols, folder):
    path = folder / "dict.txt"
    path.write_text(dictionary_text(symbols), encoding="utf-8")
    return Dictionary.load(str(path))


@pytest.mark.parametrize("layout", ["xlmr_model", "llama_model"])
def test_numbers_of_ordinary_pieces_are_one_higher_in_fairseq(request, tmp_path, layout):
    processor = load_sentencepiece(request.getfixturevalue(layout))
    symbols, ids = fairseq_ids(processor)
    # <unk>, <s>, </s> have fairseq's own numbers
    assert ids[:3].tolist() == [3, 0, 2]
    assert (ids[3:] == np.arange(3, len(processor)) + 1).all()
    dictionary = fairseq_dictionary(symbols, tmp_path)
    assert len(dictionary) == len(processor) + 1  # and <pad>
    plain = [index for index in range(3, len(processor)) if not any(map(str.isspace, processor.IdToPiece(index)))]
    assert [dictionary[ids[index]] for index in plain] == [processor.IdToPiece(index) for index in plain]


def test_llamas_pieces_of_white_space_have_symbols_without(llama_model):
    symbols = SentencePieceTokenizer(llama_model).symbols
    assert {"<U+00A0>", "<U+3000>", "<U+2028>", "<0x0A>"} <= set(symbols)
    assert not any(map(str.isspace, "".join(symbols)))


def test_ids_are_those_of_the_models_pieces(llama_model, tmp_path):
    tokenizer = SentencePieceTokenizer(llama_model)
    processor = load_sentencepiece(llama_model)
    dictionary = fairseq_dictionary(tokenizer.symbols, tmp_path)
    texts = ["The river", "", "a\nb"]
    encoded = tokenizer.encode(texts)
    assert [ids.dtype for ids in encoded] == [np.int64] * 3
    assert [[dictionary[index] for index in ids] for ids in encoded] == [processor.EncodeAsPieces(t) for t in texts]


# without byte pieces a cut inside of a word can't be hidden
@pytest.mark.parametrize(
    "layout, separator",
    [("llama_model", "\n"), ("llama_model", " "), ("llama_model", ""), ("xlmr_model", "\n"), ("xlmr_model", " ")],
)
def test_long_documents_are_cut_without_a_trace(request, monkeypatch, layout, separator):
    path = request.getfixturevalue(layout)
    text = separator.join(["the river of a century" if separator == "\n" else "river"] * 40)
    whole = SentencePieceTokenizer(path).encode([text, "short"])
    monkeypatch.setattr(pieces, "windows", lambda text: windows.windows(text, 50))
    cut = SentencePieceTokenizer(path).encode([text, "short"])
    decode = load_sentencepiece(path).DecodeIds
    # fairseq's numbers of ordinary pieces are one higher
    assert decode((cut[0] - 1).tolist()) == decode((whole[0] - 1).tolist())
    assert cut[1].tolist() == whole[1].tolist()
    if separator:
        assert cut[0].tolist() == whole[0].tolist()


def test_files_that_are_no_models_are_errors(tmp_path):
    for content in (b"nonsense", b""):
        (tmp_path / "spm.model").write_bytes(content)
        with pytest.raises(ValueError, match="spm.model is no SentencePiece model"):
            load_sentencepiece(tmp_path / "spm.model")
    with pytest.raises(ValueError, match="is no SentencePiece model: .*No such file"):
        load_sentencepiece(tmp_path / "none.model")


class TwoPieces:
    """A model with a piece of white space, and one that is called as dict.txt writes the first."""

    def __len__(self):
        return 2

    def IdToPiece(self, index):
        return ("\u00a0", "<U+00A0>")[index]

    def IsUnknown(self, index):
        return False


def test_two_pieces_of_one_name_are_an_error():
    with pytest.raises(ValueError, match="has the piece '<U.00A0>' twice"):
        fairseq_ids(TwoPieces())
