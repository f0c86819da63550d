"""Opening a tokenizer by name, and keeping its file."""

import pytest

from data_prep.tokenizers import load_tokenizer, save_tokenizer


@pytest.mark.parametrize(
    "fixture, kind, name",
    [("rank_file", "tiktoken", "tokenizer.tiktoken"), ("xlmr_model", "sentencepiece", "spm.model")],
)
def test_a_saved_tokenizer_is_the_same_file(request, tmp_path, fixture, kind, name):
    original = request.getfixturevalue(fixture)
    tokenizer = load_tokenizer(original)
    assert tokenizer.kind == kind
    path = save_tokenizer(tokenizer, tmp_path / "data")
    assert path == tmp_path / "data" / name
    assert path.read_bytes() == original.read_bytes()
    again = load_tokenizer(str(path))
    assert again.symbols == tokenizer.symbols and again.vocab_size == tokenizer.vocab_size
    assert again.encode(["the river"])[0].tolist() == tokenizer.encode(["the river"])[0].tolist()


@pytest.mark.parametrize("name", ["o200k_base", "vocabulary.json", ""])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r"expected a SentencePiece file \*.model, a file \*.tiktoken, or cl100k_base"):
        load_tokenizer(name)
