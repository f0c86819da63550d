"""tiktoken's files: exact on any text, cl100k's rules, and no network."""

import shutil

import pytest
import tiktoken
import tiktoken.load
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from data_prep.tokenizers import ranks, windows
from data_prep.tokenizers.ranks import CL100K, CL100K_IN_CACHE, RankEncoding, TiktokenTokenizer, is_cl100k, load_ranks

TEXTS = st.text(
    st.one_of(st.sampled_from(" \n\r\t'stlvre019.,é中"), st.characters(exclude_categories=["Cs"])), max_size=60
)


@pytest.fixture(scope="module")
def tokenizer(rank_file):
    return TiktokenTokenizer(rank_file)


@pytest.fixture(scope="module")
def encoding(rank_file):
    return RankEncoding(load_ranks(rank_file)[0])


@pytest.fixture(scope="module")
def published(rank_file):
    """tiktoken's own cl100k_base, with the ranks of the small file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda *args, **kwargs: load_ranks(rank_file)[0])
        return tiktoken.Encoding(**openai_public.cl100k_base())


@given(text=TEXTS)
@settings(max_examples=30)
def test_text_is_cut_as_tiktoken_does_it(encoding, published, text):
    assert encoding.encode(text).tolist() == published.encode_ordinary(text)


@given(text=TEXTS)
@settings(max_examples=30)
def test_ids_are_ranks_after_fairseqs_special_symbols(tokenizer, encoding, text):
    (ids,) = tokenizer.encode([text])
    assert encoding.decode([int(tokenizer.symbols[index - 4]) for index in ids]).decode() == text


def test_symbols_are_the_ranks_in_order(tokenizer):
    assert tokenizer.symbols == [str(rank) for rank in range(tokenizer.vocab_size)]


def test_gaps_between_ranks_leave_no_gap_in_the_dictionary(tmp_path, rank_file):
    lines = rank_file.read_bytes().splitlines()
    (tmp_path / "gap.tiktoken").write_bytes(b"\n".join([*lines[:258], *lines[259:]]))
    tokenizer = TiktokenTokenizer(tmp_path / "gap.tiktoken")
    assert tokenizer.symbols[257:259] == ["257", "259"] and tokenizer.vocab_size == len(lines) - 1
    assert tokenizer.encode([" the"])[0].tolist() == [4 + 258]


def test_special_tokens_are_ordinary_text(tokenizer):
    assert len(tokenizer.encode(["<|endoftext|>"])[0]) > 5


def test_long_documents_are_cut_and_lose_nothing(monkeypatch, encoding):
    monkeypatch.setattr(ranks, "windows", lambda text: windows.windows(text, 10))
    text = "the river in an\nénd of the 1212 words"
    assert encoding.decode(encoding.encode(text)).decode() == text


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda lines: [*lines[:3], b"nonsense", *lines[3:]],
            "line 4: expected base64 and a number, found b'nonsense'",
        ),
        (lambda lines: [*lines, lines[0]], "line 270: an empty or repeated token"),
        (lambda lines: [*lines, b"eHh4eA== -1"], "negative rank"),
        (lambda lines: [*lines, b"eHh4eA== 3"], "one rank to several tokens"),
        (lambda lines: lines[9:], "9 of the 256 single bytes have no rank"),
        (lambda lines: [], "256 of the 256"),
    ],
)
def test_damaged_files_are_errors(tmp_path, rank_file, change, message):
    path = tmp_path / "bad.tiktoken"
    path.write_bytes(b"\n".join(change(rank_file.read_bytes().splitlines())))
    with pytest.raises(ValueError, match=f"bad.tiktoken.*{message}"):
        load_ranks(path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no tiktoken file .*none.tiktoken .*No such file"):
        load_ranks(tmp_path / "none.tiktoken")


def test_without_cache_and_network_the_error_tells_what_to_do(tmp_path, monkeypatch):
    def unreachable(address):
        raise ConnectionError("no network")

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.load, "read_file", unreachable)
    with pytest.raises(ValueError, match=f"cl100k_base.tiktoken by hand .*TIKTOKEN_CACHE_DIR.* {CL100K_IN_CACHE}"):
        load_ranks(CL100K)


def test_the_cache_is_enough(tmp_path, monkeypatch, rank_file):
    shutil.copy(rank_file, tmp_path / CL100K_IN_CACHE)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    # the small file takes the place of the published one, whose hash tiktoken compares
    monkeypatch.setattr(tiktoken.load, "check_hash", lambda data, expected: True)
    found, content = load_ranks(CL100K)
    assert found == load_ranks(rank_file)[0]
    assert content == rank_file.read_bytes() and not is_cl100k(content)
