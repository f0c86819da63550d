"""The table of sizes, and how the command line changes it."""

import pytest

from fairseq_mhmoe.cli.reproduce_settings import (
    SCALES,
    Scale,
    check,
    find_scale,
    parse_changes,
    parse_learning_rates,
)

ENGLISH = SCALES["english", "default"]
BATCH = {"tokens_per_sample": 128, "samples_per_update": 8, "samples_per_batch": 8}


@pytest.mark.parametrize("key", SCALES, ids="-".join)
def test_every_row_can_be_trained(key):
    check(SCALES[key])


def test_numbers_of_the_table_can_be_set():
    assert parse_changes(["width=256", "dropout=0.1", "experts=8,32"]) == {
        "width": 256,
        "dropout": 0.1,
        "experts": (8, 32),
    }


@pytest.mark.parametrize(
    "word, expected",
    [
        ("width", "expected NAME=VALUE with a NAME out of .*width"),
        ("size=3", "expected NAME=VALUE"),
        ("data=x", "expected NAME=VALUE"),
        ("width=2.5", "--set width=2.5: expected a whole number"),
        ("dropout=x", "--set dropout=x: expected a number"),
        ("experts=8,x", "whole numbers with commas"),
    ],
)
def test_a_wrong_setting_is_named(word, expected):
    with pytest.raises(ValueError, match=expected):
        parse_changes([word])


def test_learning_rate_of_all_and_of_a_family():
    scale = find_scale("english", False, "table1", parse_learning_rates(["1e-3", "mhmoe=2e-3"]))
    assert [scale.learning_rate_of(family) for family in ("dense", "mhmoe", "xmoe")] == [1e-3, 2e-3, 1e-3]


def test_a_rate_for_all_replaces_those_of_the_table():
    scale = Scale(**{**vars(ENGLISH), "learning_rates": {"dense": 5.0}, **parse_learning_rates(["1e-3"])})
    assert scale.learning_rate_of("dense") == 1e-3


@pytest.mark.parametrize("word", ["fast", "mhmo=1e-3", "mhmoe=", "=1"])
def test_a_wrong_rate_is_named(word):
    with pytest.raises(ValueError, match=f"--learning-rate {word}: expected"):
        parse_learning_rates([word])


def test_changes_of_a_comparison_come_before_the_users(monkeypatch):
    scale = Scale(**{**vars(ENGLISH), "changes": {"v2": {"width": 96, "layers": 6}}})
    monkeypatch.setitem(SCALES, ("english", "default"), scale)
    assert find_scale("english", False, "table1", {}).width == ENGLISH.width
    found = find_scale("english", False, "v2", {"layers": 8})
    assert (found.width, found.layers) == (96, 8)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"width": 0}, "width 0: expected 1 or more"),
        ({"experts": (8, 8)}, r"experts \(8, 8\): expected different numbers"),
        ({"dropout": 1.0}, r"dropout 1.0: expected a number in \[0, 1\)"),
        ({"weight_decay": float("nan")}, "weight_decay nan: expected 0 or more"),
        ({"learning_rate": 0.0}, "learning rate 0.0: expected a positive number"),
        ({"samples_per_batch": 3}, "samples_per_update 8: expected a multiple of samples_per_batch, 3"),
        ({"tokens": 1023}, "tokens 1023: expected 1024 or more"),
        ({"bf16": 2}, "bf16 2: expected 0 or 1"),
        ({"end_share": 1.5}, "end_share 1.5"),
    ],
)
def test_what_no_training_can_have_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        find_scale("english", False, "table1", {**BATCH, **changes})


def test_updates_are_those_that_are_full():
    scale = find_scale("english", False, "table1", {**BATCH, "tokens": 3 * 1024 + 1023})
    assert (scale.tokens_per_update, scale.updates) == (1024, 3)


@pytest.mark.parametrize("key", SCALES, ids="-".join)
def test_a_family_of_a_row_has_no_rate_of_another_size(key):
    scale = SCALES[key]
    assert all(0.2 < rate / scale.learning_rate < 5 for rate in scale.learning_rates.values())
