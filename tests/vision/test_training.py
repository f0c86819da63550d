"""Training of a PatchVQ: it learns, repeats itself by seed, and wakes up dead codes."""

import pytest
import torch

from fairseq_mhmoe.vision import PatchVQConfig
from fairseq_mhmoe.vision.crops import random_crops
from fairseq_mhmoe.vision.training import MovingCodes, TrainingConfig, train
from fairseq_mhmoe.vision.usage import measure

from .pictures import draw

SMALL = dict(patch_size=8, num_codes=48, width=48, code_dim=8)


@pytest.fixture(scope="module")
def trained():
    images = list(draw(150))
    return train(images, 24, PatchVQConfig(**SMALL), TrainingConfig(steps=250, batch_size=16, lr=3e-3))


def test_codes_hold_what_is_to_be_seen(trained):
    found = measure(trained, draw(120, seed=1))
    assert found["used"] > 40 and found["perplexity"] > 20
    assert found["top_share"] < 0.2
    assert found["error"]["reconstruction"] < 0.7 * found["error"]["image_mean"]
    # no collapse onto the ground: codes are left for edges
    assert found["blank"]["codes"] < 32 and found["blank"]["perplexity_of_others"] > 25


def test_the_ground_of_another_colour_has_another_code(trained):
    plain = torch.stack([torch.full((3, 24, 24), value, dtype=torch.uint8) for value in (20, 240)])
    plain = torch.cat([plain, draw(1)[:, :, :1, :1].expand(1, 3, 24, 24)])
    codes = trained(plain)
    assert all(row.unique().numel() == 1 for row in codes)
    assert codes[:, 0].unique().numel() == 3


def test_a_trained_tokenizer_is_frozen_and_knows_its_size(trained):
    assert not trained.training and trained.image_size == trained.settings()["image_size"] == 24
    assert not any(weight.requires_grad for weight in trained.parameters())
    assert torch.allclose(trained.codebook().norm(dim=1), torch.ones(48), atol=1e-5)


def test_seed_and_images_decide_everything():
    images = list(draw(30))

    def fingerprint(seed):
        torch.rand(seed)  # the global generator must not matter
        config = TrainingConfig(steps=6, batch_size=20, seed=seed, restart_every=2)
        return train(images, 16, PatchVQConfig(**SMALL), config).fingerprint()

    assert fingerprint(1) == fingerprint(1)
    assert fingerprint(1) != fingerprint(2)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(4)
    before = torch.random.get_rng_state()
    train(list(draw(3)), 16, PatchVQConfig(**{**SMALL, "num_codes": 4}), TrainingConfig(steps=2, batch_size=2))
    assert torch.equal(torch.random.get_rng_state(), before)


def moving(codebook, **settings):
    return MovingCodes(codebook, TrainingConfig(**settings), torch.Generator().manual_seed(0))


def test_a_code_moves_to_the_mean_of_what_is_nearest():
    codebook = torch.eye(3)
    codes = moving(codebook, decay=0.5)
    row = torch.tensor([[0.6, 0.8, 0.0]])
    codes.update(row, torch.tensor([1]))
    # half of the old code and half of the new row, made as long as 1
    expected = torch.nn.functional.normalize(0.5 * torch.tensor([0.0, 1.0, 0.0]) + 0.5 * row[0], dim=0)
    assert torch.allclose(codebook[1], expected)
    assert torch.allclose(codebook[[0, 2]], torch.eye(3)[[0, 2]])
    assert torch.allclose(codes.counts, torch.tensor([0.5, 1.0, 0.5]))


def test_dead_codes_take_the_place_of_badly_drawn_patches():
    codebook = torch.eye(4)
    codes = moving(codebook, restart_below=0.1)
    codes.counts.copy_(torch.tensor([5.0, 0.01, 7.0, 0.0]))
    rows = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    weights = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    assert codes.restart(rows, weights) == 2
    assert {tuple(row) for row in codebook[[1, 3]].tolist()} == {tuple(row) for row in rows[[2, 3]].tolist()}
    assert torch.equal(codebook[[0, 2]], torch.eye(4)[[0, 2]])
    assert codes.restart(rows, weights) == 0


def test_kmeans_finds_the_clusters():
    centres = torch.eye(4)
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(centres.repeat(50, 1) + 0.05 * torch.randn(200, 4, generator=generator), dim=1)
    codebook = torch.zeros(8, 4)
    moving(codebook).start(rows)
    assert ((codebook @ centres.T).max(dim=0).values > 0.98).all()
    with pytest.raises(ValueError, match="200 patches can't give 300 codes"):
        moving(torch.zeros(300, 4)).start(rows)


def test_crops_are_squares_of_the_image():
    ramp = torch.arange(60, dtype=torch.uint8).expand(3, 40, 60).contiguous()
    generator = torch.Generator().manual_seed(0)
    crops = random_crops([ramp] * 40, 20, 0.5, generator)
    assert crops.shape == (40, 3, 20, 20) and crops.dtype == torch.uint8
    rows = crops[:, 0, 7].int()
    slopes = (rows[:, -1] - rows[:, 0]) / 19
    # the square is 20 to 40 pixels wide: from one to two grey levels a pixel, to the left or the right
    assert 0.8 < slopes.abs().min() and slopes.abs().max() < 2.2
    assert 8 < (slopes > 0).sum() < 32
    assert rows.min() < 5 and rows.max() > 54


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"decay": 1.0}, {"min_scale": 0.0}, {"lr": -1.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainingConfig(**wrong)


def test_images_are_needed_and_must_fit_the_patch():
    with pytest.raises(ValueError, match="no images"):
        train([], 16, PatchVQConfig(), TrainingConfig())
    with pytest.raises(ValueError, match="multiple of 8"):
        train(list(draw(2)), 20, PatchVQConfig(**SMALL), TrainingConfig(steps=1))
