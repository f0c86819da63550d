"""Masked samples of images, texts and pairs, and what a batch of them holds."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fairseq_mhmoe.data.image_transforms import ImageTransform
from fairseq_mhmoe.data.images import BadImage
from fairseq_mhmoe.data.multimodal_batches import Images, MultimodalDataset, Stream, Symbols, Texts
from fairseq_mhmoe.data.multimodal_streams import Record

SYMBOLS = Symbols(bos=0, pad=1, eos=2, mask=30, first=4, end=30)
SIZE, PATCH = 16, 4  # 16 patches
CAPTIONS = [[5, 6, 7, 8], [9], [], list(range(4, 24))]


def shards(broken=None):
    def picture(index):
        if index == broken:
            raise BadImage("truncated", "image file is truncated")
        return Image.new("RGB", (30, 20), (10 * index, 0, 255))

    return SimpleNamespace(picture=picture, name=lambda index: f"cc/00001.tar: {index}.jpg")


def images(ratio=0.4, augmentation="none", **options):
    return Images(shards(), ImageTransform(SIZE, augmentation), PATCH, ratio, **options)


def texts(ratio=0.5, length=12):
    return Texts(lambda index: np.array(CAPTIONS[index], dtype=np.int64), length, ratio, SYMBOLS)


def dataset(seed=1, **parts):
    streams = {
        "image": Stream(5, images(), None),
        "text": Stream(4, None, texts(0.15)),
        "pair": Stream(4, images(augmentation="crop"), texts()),
    }
    return MultimodalDataset({**streams, **parts}, SYMBOLS, seed, training=True)


def batch(data, *records):
    return data.collater([data[Record(*record)] for record in records])


def test_a_batch_has_the_streams_inputs_targets_and_numbers():
    data = dataset()
    whole = batch(data, ("image", 0, 3), ("image", 0, 1), ("text", 0, 3), ("pair", 0, 0), ("pair", 2, 1))
    assert whole["id"].tolist() == [3, 1, 5 + 3, 9 + 0, 9 + 1]
    assert whole["nsentences"] == 5
    assert whole["streams"] == {
        "image": {"rows": 2, "image_masked": 12, "text_masked": 0},
        "text": {"rows": 1, "image_masked": 0, "text_masked": 2},  # 10 of its 20 tokens remain: 0.15 * 10
        "pair": {"rows": 2, "image_masked": 12, "text_masked": 3},  # 2 of 4, 1 of 1
    }
    assert whole["ntokens"] == 12 + 2 + 12 + 3
    image, text, pair = (whole["net_input"][name] for name in ("image", "text", "pair"))
    assert image["images"].dtype == torch.uint8 and image["images"].shape == (2, 3, SIZE, SIZE)
    assert image["images"][:, 0, 0, 0].tolist() == [30, 10]
    assert image["image_mask"].dtype == torch.bool and image["image_mask"].sum(dim=1).tolist() == [6, 6]
    assert image["image_positions"].tolist() == image["image_mask"].flatten().nonzero().flatten().tolist()
    assert "tokens" not in image and "images" not in text
    assert text["tokens"].shape == (1, 12)
    assert pair["tokens"].shape == (2, 6), "as long as the longest caption"
    assert pair["tokens"][1, 3:].tolist() == [SYMBOLS.pad] * 3


def test_text_targets_are_what_stood_at_the_positions():
    data = dataset()
    for index in range(4):
        whole = batch(data, ("text", 0, 3), ("pair", 0, index), ("pair", 1, index))
        for name, rows in (("text", [3]), ("pair", [index, index])):
            stream, targets = whole["net_input"][name], whole["targets"][name]["text"]
            original = stream["tokens"].clone().flatten()
            original[stream["text_positions"]] = targets
            for row, number in zip(original.view_as(stream["tokens"]), rows, strict=True):
                tokens = [SYMBOLS.bos, *CAPTIONS[number][:10], SYMBOLS.eos]
                assert row.tolist() == tokens + [SYMBOLS.pad] * (len(row) - len(tokens))
            assert (targets >= SYMBOLS.first).all()


def test_a_caption_without_tokens_has_no_target():
    whole = batch(dataset(), ("pair", 0, 2))
    assert whole["net_input"]["pair"]["tokens"].tolist() == [[SYMBOLS.bos, SYMBOLS.eos]]
    assert whole["targets"]["pair"]["text"].shape == (0,)
    assert whole["ntokens"] == 6


def test_a_text_that_ends_a_document_has_one_end():
    texts = Texts(lambda index: np.array([5, SYMBOLS.eos, 6, SYMBOLS.eos]), 6, 0.5, SYMBOLS)
    item = texts.read(0, np.random.default_rng(0))
    assert len(item["tokens"]) == 5 and item["positions"].tolist() in ([1], [3])
    assert item["tokens"][[0, 2, 4]].tolist() == [SYMBOLS.bos, SYMBOLS.eos, SYMBOLS.eos]
    longer = Texts(lambda index: np.array([5, 6, 7, SYMBOLS.eos]), 5, 0, SYMBOLS).read(0, np.random.default_rng(0))
    assert longer["tokens"].tolist() == [SYMBOLS.bos, 5, 6, 7, SYMBOLS.eos]
    assert longer["tokens"].dtype == np.int64


def test_streams_without_rows_are_none():
    whole = batch(dataset(), ("pair", 0, 1))
    assert whole["net_input"]["image"] is None and whole["net_input"]["text"] is None
    assert list(whole["targets"]) == ["pair"] == list(whole["streams"])
    assert dataset().collater([]) == {}


def test_a_record_differs_from_pass_to_pass_and_nowhere_else():
    """Masks and crops are functions of (seed, stream, pass, record)."""
    data, same, other = dataset(), dataset(), dataset(seed=2)

    def crops(data, visit):
        item = data[Record("pair", visit, 3)]
        return item["image"].tolist(), item["mask"].tolist(), item["tokens"].tolist()

    data[Record("image", 0, 1)]  # what was read before does not matter
    assert crops(data, 0) == crops(same, 0)
    assert crops(data, 1) == crops(same, 1)
    assert len({str(crops(each, visit)[1:]) for each in (data, other) for visit in range(3)}) == 6
    assert (data[Record("image", 0, 3)]["mask"] != data[Record("pair", 0, 3)]["mask"]).any()


def test_no_ratio_is_no_mask():
    data = dataset(pair=Stream(4, images(0), texts(0)))
    whole = batch(data, ("pair", 0, 0), ("pair", 0, 3))
    pair = whole["net_input"]["pair"]
    assert pair["image_positions"] is None and not pair["image_mask"].any()
    assert pair["text_positions"].shape == (0,) and (pair["tokens"] != SYMBOLS.mask).all()
    assert whole["ntokens"] == 0


def test_known_codes_are_targets():
    codes = np.arange(5 * 16).reshape(5, 16)
    data = dataset(image=Stream(5, images(codes=lambda index: codes[index]), None))
    whole = batch(data, ("image", 0, 4), ("image", 3, 2))
    expected = torch.from_numpy(codes[[4, 2]]).flatten()[whole["net_input"]["image"]["image_positions"]]
    assert whole["targets"]["image"]["image"].tolist() == expected.tolist()


def test_a_broken_record_is_named():
    data = dataset(image=Stream(5, Images(shards(broken=2), ImageTransform(SIZE), PATCH, 0.4), None))
    assert data[Record("image", 0, 1)]["id"] == 1
    with pytest.raises(ValueError, match="cc/00001.tar: 2.jpg: truncated: .*prepare the images again"):
        data[Record("image", 0, 2)]


def test_samples_are_numbered_stream_by_stream():
    data = dataset()
    assert len(data) == 13
    assert [data[number]["stream"] for number in (0, 4, 5, 8, 9, 12)] == ["image"] * 2 + ["text"] * 2 + ["pair"] * 2
    assert [data[number]["id"] for number in range(13)] == list(range(13))
    with pytest.raises(IndexError, match="sample 13"):
        data[13]
