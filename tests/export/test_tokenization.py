"""The exported tokenizer gives the numbers that data preparation gives, whatever the text, and the text back."""

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.tokenizers import load_tokenizer
from data_prep.tokenizers.dictionary import FAIRSEQ_SPECIALS
from data_prep.tokenizers.windows import windows
from fairseq_mhmoe.data.checks import load_dictionary
from fairseq_mhmoe.data.text import SentencePieceText
from fairseq_mhmoe.export import tokenization_mhmoe
from fairseq_mhmoe.export.tokenization_mhmoe import FILES, MHMoETokenizer
from tests.data_prep.tokenizers.conftest import (  # noqa: F401  fixtures
    lines,
    llama_model,
    rank_file,
    train_model,
    xlmr_model,
)

HOSTILE = [
    "", " ", "\n", "  two  spaces ", "\t\n\r\n mixed \u00a0\u3000\u2028 space", "</s>", "<s>Hello</s> <pad> <unk>",
    "<0x0A>", "▁under▁score", "🙂 日本語 naïve e\u0301", "\x00\x01 control", "a" * 500, "<U+00A0>", "12 123 1234",
    "don't I'LL",
]  # fmt: skip
LAYOUTS = ["ours", "xlmr_model", "llama_model", "rank_file"]


@pytest.fixture(scope="module")
def make(tmp_path_factory, tiny_data_dir, request):
    """make(layout) -> (exported tokenizer, that of data preparation); one of the four layouts."""
    made = {}

    def make(layout):
        if layout not in made:
            path = tiny_data_dir / "spm.model" if layout == "ours" else request.getfixturevalue(layout)
            original = load_tokenizer(path)
            folder = tmp_path_factory.mktemp(layout)
            symbols = [*FAIRSEQ_SPECIALS, *original.symbols]
            (folder / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
            (folder / original.file_name).write_bytes(original.content)
            kind = next(key for key, name in FILES.items() if name == original.file_name)
            made[layout] = MHMoETokenizer(folder / "vocab.json", **{kind: folder / original.file_name}), original
        return made[layout]

    return make


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hostile_texts_have_the_numbers_of_the_data(layout, make):
    tokenizer, original = make(layout)
    for text in HOSTILE:
        assert ids_of(tokenizer, text) == original.encode([text])[0].tolist(), text


@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.text(max_size=60))
@settings(max_examples=40)
def test_any_text_has_the_numbers_of_the_data(layout, make, text):
    tokenizer, original = make(layout)
    assert ids_of(tokenizer, text) == original.encode([text])[0].tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_long_texts_are_cut_as_for_the_data(layout, make, monkeypatch):
    tokenizer, original = make(layout)
    monkeypatch.setattr(tokenization_mhmoe, "WINDOW", 40)
    monkeypatch.setattr("data_prep.tokenizers.windows.WINDOW", 40)
    monkeypatch.setattr("data_prep.tokenizers.windows.windows.__defaults__", (40,))
    monkeypatch.setattr("data_prep.tokenizers.windows.SEARCHED", 10)
    for text in ("the river in the town\n" * 9, "x" * 130, "one two three four five six seven eight nine ten " * 4):
        assert len(tokenization_mhmoe.windows(text)) > 2
        assert tokenization_mhmoe.windows(text) == list(windows(text))
        assert ids_of(tokenizer, text) == original.encode([text])[0].tolist()


@pytest.mark.parametrize("layout", ["ours", "llama_model", "rank_file"])
@given(st.lists(st.sampled_from(["the", "of", "é", "12", "🙂", "日本", "x"]), max_size=12).map(" ".join))
@settings(max_examples=20)
def test_text_survives(layout, make, text):
    tokenizer, _ = make(layout)
    assert tokenizer.decode(ids_of(tokenizer, text)) == text
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_text_comes_back_as_from_fairseqs_programs(make, tiny_data_dir):
    tokenizer, _ = make("ours")
    dictionary = load_dictionary(tiny_data_dir)
    text = SentencePieceText(tiny_data_dir / "spm.model", dictionary)
    for numbers in (list(range(4, len(dictionary))), [250, 4, 4, 300]):
        assert tokenizer.decode(numbers) == text.decode(dictionary.string(numbers))


def test_what_stood_before_a_document_stands_before_a_text(make):
    tokenizer, _ = make("ours")
    alone = ids_of(tokenizer, "The river")
    encoded = tokenizer("The river", return_special_tokens_mask=True)
    assert encoded["input_ids"] == [2, *alone]
    assert encoded["special_tokens_mask"] == [1] + [0] * len(alone)
    assert tokenizer(text="The", text_pair="river")["input_ids"] == [
        2,
        *ids_of(tokenizer, "The"),
        *ids_of(tokenizer, "river"),
    ]
    assert tokenizer.decode(encoded["input_ids"]) == "</s>The river"


def test_a_batch_is_padded_on_the_left(make):
    tokenizer, _ = make("ours")
    batch = tokenizer(["The river of the town", "The"], padding=True, return_tensors="pt")
    assert batch["input_ids"][1].tolist()[-1] == ids_of(tokenizer, "The")[-1]
    assert batch["input_ids"][1, 0] == 1 and batch["attention_mask"][1, 0] == 0
    assert bool((batch["attention_mask"][0] == 1).all())


def test_special_tokens_are_read_in_a_text_only_on_request(make):
    tokenizer, _ = make("ours")
    assert 2 not in ids_of(tokenizer, "a</s>b")
    found = tokenizer("a</s>b", add_special_tokens=False, split_special_tokens=False)["input_ids"]
    assert found == [*ids_of(tokenizer, "a"), 2, *ids_of(tokenizer, "b")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_tokenizer_is_the_same(layout, make, tmp_path):
    tokenizer, _ = make(layout)
    tokenizer.save_pretrained(tmp_path)
    again = MHMoETokenizer.from_pretrained(tmp_path)
    for text in HOSTILE:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (again.padding_side, len(again)) == ("left", len(tokenizer))


def test_worker_processes_get_a_tokenizer(make):
    for layout in ("ours", "rank_file"):
        tokenizer, _ = make(layout)
        assert pickle.loads(pickle.dumps(tokenizer))("The")["input_ids"] == tokenizer("The")["input_ids"]


def test_wrong_files_are_told(make, tmp_path, tiny_data_dir):
    with pytest.raises(ValueError, match="expected one of spm.model and tokenizer.tiktoken"):
        MHMoETokenizer(tmp_path / "vocab.json")
    (tmp_path / "vocab.json").write_text('{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}')
    with pytest.raises(ValueError, match="lacks .* symbols of"):
        MHMoETokenizer(tmp_path / "vocab.json", spm_file=tiny_data_dir / "spm.model")
