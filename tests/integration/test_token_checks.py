"""Tokens that the dictionary does not have are refused before the batch reaches the model."""

import types

import pytest
import torch

from fairseq_mhmoe.integration.token_checks import prepare_checked_sample

TRAINER = types.SimpleNamespace(
    task=types.SimpleNamespace(source_dictionary=range(10), target_dictionary=range(8)),
)


def prepare(source, target):
    sample = {"id": torch.tensor([40, 41]), "net_input": {"src_tokens": torch.tensor(source)}}
    sample["target"] = torch.tensor(target)
    return prepare_checked_sample(lambda trainer, sample: "prepared", TRAINER, sample)


def test_tokens_of_the_dictionary_pass():
    assert prepare([[0, 9], [1, 1]], [[0, 7], [1, 1]]) == "prepared"


@pytest.mark.parametrize(
    "source, target, message",
    [
        ([[0, 1], [10, 1]], [[0, 1], [1, 1]], "token 10 in sample 41, expected 0 to 9"),
        ([[0, 1], [-1, 1]], [[0, 1], [1, 1]], "token -1 in sample 41, expected 0 to 9"),
        ([[0, 9], [1, 1]], [[0, 8], [1, 1]], "token 8 in sample 40, expected 0 to 7"),
    ],
)
def test_another_token_is_refused_with_its_sample(source, target, message):
    with pytest.raises(ValueError, match=message):
        prepare(source, target)


@pytest.mark.parametrize("sample", [None, {}, "DUMMY"])
def test_no_batch_is_none_to_check(sample):
    assert prepare_checked_sample(lambda trainer, sample: "prepared", TRAINER, sample) == "prepared"


def prepare_streams(text, pair, target):
    """Two images with ids 40 and 41, a text with id 42 and two pairs with ids 43 and 44."""
    images = {"images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}
    inputs = {"image": images, "text": {"tokens": torch.tensor(text)}, "pair": {**images, "tokens": torch.tensor(pair)}}
    targets = {
        "image": {},
        "text": {"text": torch.tensor(target)},
        "pair": {"text": torch.tensor([], dtype=torch.int64)},
    }
    sample = {"id": torch.arange(40, 45), "net_input": inputs, "targets": targets}
    return prepare_checked_sample(lambda trainer, sample: "prepared", TRAINER, sample)


def test_streams_of_the_dictionary_pass():
    assert prepare_streams([[0, 9]], [[0, 1], [9, 2]], [5]) == "prepared"


@pytest.mark.parametrize(
    "text, pair, target, message",
    [
        ([[0, 10]], [[0, 1], [9, 2]], [5], "token 10 in sample 42, expected 0 to 9"),
        ([[0, 9]], [[0, 1], [-1, 2]], [5], "token -1 in sample 44, expected 0 to 9"),
        ([[0, 9]], [[0, 1], [9, 2]], [5, 12], "token 12 in sample unknown, expected 0 to 9"),
    ],
)
def test_another_token_in_a_stream_is_refused_with_its_sample(text, pair, target, message):
    with pytest.raises(ValueError, match=message):
        prepare_streams(text, pair, target)
