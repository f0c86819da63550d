"""Symbols of dict.txt: fairseq reads back what was written, whatever white space the pieces hold."""

from fairseq.data import Dictionary
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.tokenizers.dictionary import FAIRSEQ_SPECIALS, dictionary_text, symbol_of

WHITE = "\t\n\r\x0b\x0c\x1c\x85\u00a0\u2028\u3000 "
PIECES = st.lists(st.text(st.sampled_from("▁aé中<>0" + WHITE), min_size=1, max_size=5), max_size=8, unique=True)


def test_only_white_space_is_written_in_another_way():
    assert symbol_of("▁the") == "▁the"
    assert symbol_of("a\u00a0b\t") == "a<U+00A0>b<U+0009>"


@given(pieces=PIECES)
@settings(max_examples=30)
def test_fairseq_reads_every_symbol_back(tmp_path_factory, pieces):
    symbols = [symbol_of(piece) for piece in pieces]
    path = tmp_path_factory.mktemp("dictionary") / "dict.txt"
    path.write_text(dictionary_text(symbols), encoding="utf-8")
    dictionary = Dictionary.load(str(path))
    assert dictionary.symbols == [*FAIRSEQ_SPECIALS, *symbols]
    ids = dictionary.encode_line(" ".join(symbols), add_if_not_exist=False, append_eos=False)
    assert ids.tolist() == list(range(4, 4 + len(symbols)))
