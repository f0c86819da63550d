"""Captions with masks: which symbols, what stands in their place, and that nothing but (seed, pass, index) matters."""

import json

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from fairseq.data import Dictionary
from hypothesis import given

from fairseq_mhmoe.data.captioning import CaptionedImages, Captions, check_image_record, mask_caption
from fairseq_mhmoe.data.finetuning_examples import Images
from fairseq_mhmoe.data.index_files import IndexFiles, RecordText

from ..captioning_data import draw

BOS, PAD, EOS, FIRST, MASK = 0, 1, 2, 4, 50


def masked(tokens, ratio, seed=0):
    return mask_caption(np.random.default_rng(seed), np.array(tokens), ratio, (FIRST, MASK), MASK)


@given(st.integers(1, 30), st.floats(0.01, 1.0), st.integers(0, 99))
def test_as_many_symbols_are_masked_as_beit3_masks(words, ratio, seed):
    tokens = [BOS, *range(FIRST, FIRST + words), EOS]
    result, positions = masked(tokens, ratio, seed)
    assert len(positions) == max(1, min(int(len(tokens) * ratio + 0.5), len(tokens) - 1))
    assert (np.diff(positions) > 0).all() and positions[0] > 0
    others = np.setdiff1d(np.arange(len(tokens)), positions)
    assert (result[others] == np.array(tokens)[others]).all()
    assert ((result[positions] >= FIRST) & (result[positions] <= MASK) | (result[positions] == EOS)).all()


def test_of_the_chosen_most_become_the_mask_and_the_end_is_among_them():
    tokens = np.array([BOS, *([7] * 8), EOS])
    fates, chosen = np.zeros(3), np.zeros(10)
    for seed in range(2000):
        result, positions = masked(tokens, 0.7, seed)
        chosen[positions] += 1
        inside = positions[tokens[positions] == 7]
        fates += [(result[inside] == MASK).sum(), (result[inside] == 7).sum(), len(inside)]
    assert chosen[0] == 0
    assert abs(chosen[1:] / 2000 - 7 / 9).max() < 0.04
    assert abs(fates[0] / fates[2] - 0.8) < 0.01
    # a random word is the same one once in 46 times
    assert abs(fates[1] / fates[2] - 0.1 - 0.1 / 46) < 0.01


def dictionary():
    """46 words, numbers 4 to 49, and <mask>."""
    symbols = Dictionary()
    for word in [*(f"w{number}" for number in range(FIRST, MASK)), "<mask>"]:
        symbols.add_symbol(word)
    return symbols


@pytest.fixture
def folder(tmp_path):
    texts = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
    (tmp_path / "a.png").write_bytes(draw("red"))
    records = [{"image_path": "a.png", "text_segment": text, "image_id": 1} for text in texts]
    (tmp_path / "captioning.train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def dataset(folder, seed=1):
    text = RecordText(dictionary(), None, 8)
    return Captions(
        0.7,
        (FIRST, MASK),
        MASK,
        records=IndexFiles([folder / "captioning.train.jsonl"], text.check),
        text=text,
        images=Images(folder, 16),
        head="text",
        pad=PAD,
        seed=seed,
    )


def test_a_batch_has_captions_their_masks_and_what_they_hide(folder):
    captions = dataset(folder)
    batch = captions.collater([captions[0], captions[1]])
    pair, targets = batch["net_input"]["pair"], batch["targets"]["pair"]["text"]
    assert set(batch["net_input"]) == {"pair"} and pair["causal"] is True
    assert pair["images"].shape == (2, 3, 16, 16) and pair["images"].dtype == torch.uint8
    assert pair["tokens"].shape == (2, 7) and pair["tokens"][1, 4:].tolist() == [PAD] * 3
    full = torch.tensor([[BOS, 5, 6, 7, 8, 9, EOS], [BOS, 10, 11, EOS, PAD, PAD, PAD]])
    # 7 symbols of which 5, and 4 of which 3
    assert len(targets) == 8 == batch["ntokens"] and batch["nsentences"] == 2
    assert torch.equal(full.flatten()[pair["text_positions"]], targets)
    hidden = torch.zeros(14, dtype=torch.bool)
    hidden[pair["text_positions"]] = True
    assert torch.equal(full.flatten()[~hidden], pair["tokens"].flatten()[~hidden])
    assert batch["streams"] == {"pair": {"rows": 2, "image_masked": 0, "text_masked": 8}}


def test_a_rank_without_captions_gets_a_batch_of_nothing(folder):
    from fairseq_mhmoe.integration.empty_batches import blank_batch, is_known

    batch = dataset(folder).collater([dataset(folder)[0]])
    assert is_known(batch)
    blank = blank_batch(batch, PAD)
    pair = blank["net_input"]["pair"]
    assert pair["blank"] is True and pair["causal"] is True and pair["tokens"].eq(PAD).all()
    assert blank["ntokens"] == 0 and not len(blank["targets"]["pair"]["text"]) and not len(pair["text_positions"])


def test_masks_are_a_matter_of_seed_pass_and_index_alone(folder):
    first, second = dataset(folder), dataset(folder)
    second[2]
    for item in (0, 4, 8):
        assert torch.equal(first[item]["tokens"], second[item]["tokens"])
    visits = [first[item] for item in range(0, 30, 3)]
    assert len({tuple(visit["tokens"].tolist()) for visit in visits}) > 3
    assert any(not torch.equal(first[item]["tokens"], dataset(folder, seed=2)[item]["tokens"]) for item in range(9))
    # without a seed, in evaluation, always the same
    assert torch.equal(dataset(folder, None)[0]["tokens"], dataset(folder, None)[0]["tokens"])


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return IndexFiles([path], check_image_record)


def test_images_to_be_captioned_come_once_and_need_no_text(tmp_path):
    first, second = {"image_path": "b.png", "image_id": 9}, {"image_path": "a.png", "image_id": 3}
    records = write(tmp_path / "x.jsonl", first | {"text": "a"}, second, first | {"text_segment": None})
    images = CaptionedImages(records)
    assert images.ids == [9, 3] and images.path(9) == "b.png"
    assert images.place(3).endswith("x.jsonl, line 2")


def test_one_number_for_two_images_is_told(tmp_path):
    records = write(tmp_path / "x.jsonl", *({"image_path": f"{name}.png", "image_id": 9} for name in "ab"))
    with pytest.raises(ValueError, match="line 2: image_id 9 is 'b.png' here and 'a.png' before"):
        CaptionedImages(records)


@pytest.mark.parametrize("record", [{"image_id": 1}, {"image_path": "a.png", "image_id": "1"}, {"image_path": "a.png"}])
def test_records_without_image_or_number_are_refused(tmp_path, record):
    with pytest.raises(ValueError, match="expected the (path|number) of"):
        write(tmp_path / "x.jsonl", record)
