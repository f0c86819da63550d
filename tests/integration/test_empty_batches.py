"""A rank without data takes part in a step with a batch of nothing but padding, which counts for nothing."""

import types

import torch

from fairseq_mhmoe.integration.empty_batches import blank_batch, count_blank_as_nothing, prepare_sample

PAD = 1
TASK = types.SimpleNamespace(source_dictionary=types.SimpleNamespace(pad=lambda: PAD))


def streams_batch():
    """Two images of 4 patches and a pair, with 2 + 1 masked patches and 1 masked token."""
    image = {
        "images": torch.full((2, 3, 4, 4), 9, dtype=torch.uint8),
        "image_mask": torch.tensor([[True, False, False, False], [False, True, False, False]]),
        "image_positions": torch.tensor([0, 5]),
    }
    pair = {
        "images": torch.full((1, 3, 4, 4), 9, dtype=torch.uint8),
        "image_mask": torch.tensor([[False, False, False, True]]),
        "image_positions": torch.tensor([3]),
        "tokens": torch.tensor([[0, 7, 8, 2]]),
        "text_positions": torch.tensor([1]),
    }
    return {
        "id": torch.tensor([4, 5, 9]),
        "nsentences": 3,
        "ntokens": 4,
        "net_input": {"image": image, "text": None, "pair": pair},
        "targets": {"image": {}, "pair": {"text": torch.tensor([6])}},
        "streams": {
            "image": {"rows": 2, "image_masked": 2, "text_masked": 0},
            "pair": {"rows": 1, "image_masked": 1, "text_masked": 1},
        },
    }


def test_a_blank_batch_has_a_row_of_padding_in_each_stream():
    sample = streams_batch()
    blank = blank_batch(sample, PAD)
    assert blank["nsentences"] == blank["ntokens"] == 0
    image, text, pair = (blank["net_input"][name] for name in ("image", "text", "pair"))
    assert text is None
    for stream in (image, pair):
        assert stream["blank"] is True
        assert stream["images"].shape == (1, 3, 4, 4) and stream["images"].dtype == torch.uint8
        assert not stream["images"].any()
        assert stream["image_mask"].shape == (1, 4) and not stream["image_mask"].any()
        assert stream["image_positions"].shape == (0,)
    assert pair["tokens"].tolist() == [[PAD] * 4] and pair["text_positions"].shape == (0,)
    assert blank["targets"]["pair"]["text"].shape == (0,) and blank["targets"]["image"] == {}
    assert blank["streams"]["image"] == {"rows": 0, "image_masked": 0, "text_masked": 0}
    assert sample["nsentences"] == 3 and "blank" not in sample["net_input"]["pair"], "the batch itself was changed"


def test_streams_without_predicted_patches_stay_without():
    sample = streams_batch()
    sample["net_input"]["pair"]["image_positions"] = None
    assert blank_batch(sample, PAD)["net_input"]["pair"]["image_positions"] is None


def test_a_missing_batch_becomes_blank_and_a_real_one_stays():
    sample = streams_batch()
    trainer = types.SimpleNamespace(task=TASK, _dummy_batch=sample)
    original = lambda self, sample, is_dummy: (sample, False)  # noqa: E731
    for missing in (None, {}):
        prepared, ignored = prepare_sample(original, trainer, missing)
        assert prepared["nsentences"] == 0 and ignored is False
    assert prepare_sample(original, trainer, sample)[0] is sample


def test_what_is_logged_of_a_blank_batch_is_nothing():
    logged = {"loss": torch.tensor(3.0), "ntokens": 2, "moe_load": torch.ones(2)}
    step = lambda task, sample: (torch.tensor(3.0), 5, dict(logged))  # noqa: E731
    _, size, sums = count_blank_as_nothing(step, TASK, blank_batch(streams_batch(), PAD))
    assert size == 0 and all(not torch.as_tensor(value).any() for value in sums.values())
    _, size, sums = count_blank_as_nothing(step, TASK, streams_batch())
    assert size == 5 and sums["ntokens"] == 2
