"""Weights of another task, image size or length of text are made to fit, said aloud, and only when that is wanted."""

import logging

import pytest
import torch
import torch.nn.functional as F

IMAGES = "beit3.encoder.embed_positions.A.weight"
TEXTS = "beit3.encoder.embed_positions.B.weight"
ANSWERS = {"answers": {"kind": "classes", "classes": 5}, "text": {"kind": "text"}}


@pytest.fixture(autouse=True)
def heard(caplog):
    caplog.set_level(logging.INFO)


def load(model, state):
    model.fits_other_checkpoints = True
    model.load_state_dict(dict(state))
    return model.state_dict()


def test_other_heads_are_left_out_and_new_ones_keep_their_values(multimodal, multimodal_task, caplog):
    old, new = multimodal().state_dict(), multimodal(seed=1, task=multimodal_task(ANSWERS))
    initial = {name: value.clone() for name, value in new.state_dict().items()}
    loaded = load(new, old)
    assert "head 'image' of the checkpoint is left out: the task has none" in caplog.text
    assert "head 'answers' is not in the checkpoint and keeps its initial values" in caplog.text
    for name, value in loaded.items():
        assert torch.equal(value, initial[name] if name.startswith("heads.answers.") else old[name]), name


def test_a_head_of_another_size_is_new(multimodal, multimodal_task, caplog):
    codes = {"image": {"kind": "codes", "classes": 9}, "text": {"kind": "text"}}
    new = multimodal(seed=1, task=multimodal_task(codes))
    initial = new.state_dict()["heads.image.weight"].clone()
    assert torch.equal(load(new, multimodal().state_dict())["heads.image.weight"], initial)
    assert "head 'image' of the checkpoint is left out: it has other sizes" in caplog.text


def test_image_positions_are_interpolated(multimodal, multimodal_task, caplog):
    old = multimodal().state_dict()
    loaded = load(multimodal(seed=1, task=multimodal_task(image_size=48)), old)[IMAGES]
    assert "from 3 x 3 to 6 x 6 patches" in caplog.text
    assert loaded.shape == (3 + 36, 32) and torch.equal(loaded[:3], old[IMAGES][:3])
    channel = old[IMAGES][3:, 4].reshape(1, 1, 3, 3)  # row by row
    wanted = F.interpolate(channel, size=(6, 6), mode="bicubic", align_corners=False).flatten()
    assert torch.allclose(loaded[3:, 4], wanted, atol=1e-7)


@pytest.mark.parametrize("length, said", [(12, "14 of 22 rows are taken over"), (30, "10 new rows keep their initial")])
def test_text_positions_are_taken_over(multimodal, multimodal_task, caplog, length, said):
    old, new = multimodal().state_dict(), multimodal(seed=1, task=multimodal_task(max_text_positions=length))
    initial = new.state_dict()[TEXTS].clone()
    loaded = load(new, old)[TEXTS]
    common = min(22, length + 2)
    assert said in caplog.text
    assert torch.equal(loaded[:common], old[TEXTS][:common]) and torch.equal(loaded[common:], initial[common:])


def test_the_same_model_is_loaded_without_a_word(multimodal, caplog):
    old = multimodal(moe_freq=2, moe_expert_count=4).state_dict()
    loaded = load(multimodal(seed=1, moe_freq=2, moe_expert_count=4), old)
    assert all(torch.equal(loaded[name], value) for name, value in old.items())
    assert "head" not in caplog.text and "positions" not in caplog.text


@pytest.mark.parametrize("sizes", [dict(image_size=48), dict(max_text_positions=12), dict(heads=ANSWERS)])
def test_a_resume_stays_strict(multimodal, multimodal_task, sizes):
    with pytest.raises(RuntimeError, match="Error.s. in loading state_dict"):
        multimodal(task=multimodal_task(**sizes)).load_state_dict(multimodal().state_dict())


def test_what_is_missing_is_missed(multimodal):
    old = multimodal().state_dict()
    del old["beit3.encoder.layers.1.ffn.A.fc1.weight"]
    with pytest.raises(RuntimeError, match="Missing key.*layers.1.ffn.A.fc1.weight"):
        load(multimodal(), old)
    half = multimodal().state_dict()
    del half["heads.text.bias"]
    model = multimodal()
    initial = model.state_dict()["heads.text.weight"].clone()
    assert torch.equal(load(model, half)["heads.text.weight"], initial)  # no head is half old, half new


@pytest.mark.parametrize(
    "changes, task, message",
    [
        ({}, dict(patch_size=12), "12 pixels to a patch's side, the model 8; choose its --patch-size"),
        (dict(encoder_embed_dim=48), {}, "48 as width, the model 32; choose its architecture"),
    ],
)
def test_another_model_is_refused(multimodal, multimodal_task, changes, task, message):
    old = multimodal(task=multimodal_task(**task), **changes).state_dict()
    with pytest.raises(ValueError, match=message):
        load(multimodal(), old)


def test_another_dictionary_is_refused(multimodal):
    old = multimodal().state_dict()
    old["beit3.text_embed.weight"] = old["beit3.text_embed.weight"][:50]
    with pytest.raises(ValueError, match="50 symbols in its dictionary, the model 101; use its dict.txt"):
        load(multimodal(), old)
