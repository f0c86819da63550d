"""What a recipe and its settings refuse."""

from pathlib import Path

import pytest

from data_prep.recipe import InputFile, Recipe, Settings, SourceInfo, check_source_name

FILE = InputFile(Path("x"), "jsonl", "a")


@pytest.mark.parametrize("name", ["en", "RedPajama-C4", "zh_Hant", "v1.2+x"])
def test_names_that_can_be_folders_are_taken(name):
    check_source_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "work", "-x", "a b", "é", "a\n", "x" * 101])
def test_names_that_leave_the_folder_or_hide_in_it_are_refused(name):
    with pytest.raises(ValueError, match="source name"):
        InputFile(Path("x"), "jsonl", name)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"split": "dev"}, "split is 'dev'; expected one of train, valid, test"),
        ({"weight": -1.0}, "weight is -1.0"),
        ({"weight": float("nan")}, "weight is nan"),
    ],
)
def test_impossible_inputs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        InputFile(Path("x"), "jsonl", "a", **change)


@pytest.mark.parametrize(
    "inputs, options, message",
    [
        ((), {}, "no input files"),
        ((FILE, InputFile(Path("y"), "jsonl", "b")), {"flat": True}, "is flat, but has the sources a, b"),
        ((FILE,), {"info": {"b": SourceInfo()}}, "no input file belongs to b"),
        ((FILE, InputFile(Path("y"), "jsonl", "a", weight=2.0)), {}, "several values of weight"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(inputs, options, message):
    with pytest.raises(ValueError, match=message):
        Recipe("r", inputs, **options)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "word"}, "model_type is 'word'; expected one of unigram, bpe"),
        ({"max_chars": 5}, "max_chars is 5; expected min_chars"),
        ({"sample": 0.0}, "sample is 0.0; expected a number above 0 to 1"),
        ({"spm_alpha": 1.5}, "spm_alpha is 1.5; expected a number from 0 to 1"),
        ({"shard_tokens": 0}, "shard_tokens is 0"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**change)


def test_a_loaded_tokenizer_or_no_bytes_need_no_256_pieces():
    assert Settings(vocab_size=100, byte_fallback=False).vocab_size == 100
    assert Settings(vocab_size=100, tokenizer="x.model").vocab_size == 100
