"""Squares from images: cuts, flips, colours, and nothing global that is random."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fairseq_mhmoe.data.image_transforms import ImageTransform, crop_box, fit_image


def gradient(width, height):
    """Red grows to the right, green to the bottom, from 0 to 255."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, width)
    pixels[:, :, 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


@given(
    width=st.integers(1, 300), height=st.integers(1, 300), scale_min=st.floats(0.01, 1), seed=st.integers(0, 1 << 40)
)
def test_crops_lie_within_the_image(width, height, scale_min, seed):
    top, left, rows, columns = crop_box(np.random.default_rng(seed), width, height, scale_min)
    assert 0 <= top <= top + rows <= height and rows > 0
    assert 0 <= left <= left + columns <= width and columns > 0


def test_crops_have_the_size_and_shape_that_was_asked_for():
    generator = np.random.default_rng(0)
    boxes = np.array([crop_box(generator, 400, 300, 0.2) for _ in range(500)])
    # large areas of the wrong shape do not fit, so that the mean is below 0.6
    areas, shapes = boxes[:, 2] * boxes[:, 3] / 120000, boxes[:, 3] / boxes[:, 2]
    assert 0.19 < areas.min() < 0.25
    assert 0.9 < areas.max() <= 1
    assert areas.mean() == pytest.approx(0.48, abs=0.03)
    assert 0.74 < shapes.min() and shapes.max() < 1.35


def test_an_image_too_thin_for_a_crop_is_cut_in_the_middle():
    assert crop_box(np.random.default_rng(0), 1000, 10, 1.0) == (0, 493, 10, 13)
    assert crop_box(np.random.default_rng(0), 10, 1000, 1.0) == (493, 0, 13, 10)


@pytest.mark.parametrize("width, height", [(200, 100), (100, 200), (64, 64), (40, 30), (1, 3)])
def test_the_middle_of_an_image_is_what_remains(width, height):
    square = fit_image(gradient(width, height), 64).float()
    assert square.shape == (3, 64, 64) and square.max() <= 255
    side = min(width, height)
    shown = [255 * (length - side) / 2 / max(length - 1, 1) for length in (width, height)]
    if side > 20:
        assert square[0, 32, 0] == pytest.approx(shown[0], abs=6)
        assert square[0, 32, -1] == pytest.approx(255 - shown[0], abs=6)
        assert square[1, 0, 32] == pytest.approx(shown[1], abs=6)


def test_no_augmentation_is_the_middle_whatever_the_generator():
    transform = ImageTransform(32, "none")
    picture = gradient(90, 60)
    expected = fit_image(picture, 32)
    assert all(torch.equal(transform(picture, np.random.default_rng(seed)), expected) for seed in range(3))


@pytest.mark.parametrize("flip, share", [(True, 0.5), (False, 0.0)])
def test_half_of_the_images_are_mirrored_where_asked_for(flip, share):
    transform, generator = ImageTransform(16, flip=flip), np.random.default_rng(0)
    squares = [transform(gradient(50, 50), generator).float() for _ in range(300)]
    mirrored = [bool(square[0, :, 0].mean() > square[0, :, -1].mean()) for square in squares]
    assert np.mean(mirrored) == pytest.approx(share, abs=0.08)
    assert all(square[1, 0].mean() < square[1, -1].mean() for square in squares), "top and bottom stay"


def test_colours_change_within_the_limits_and_only_where_asked_for():
    picture = Image.new("RGB", (30, 30), (100, 120, 140))
    plain = {tuple(ImageTransform(8)(picture, np.random.default_rng(n))[:, 4, 4].tolist()) for n in range(20)}
    assert plain == {(100, 120, 140)}
    changed = [ImageTransform(8, color_jitter=0.4)(picture, np.random.default_rng(n))[:, 4, 4] for n in range(40)]
    levels = torch.stack(changed).float().mean(dim=1)
    assert levels.unique().numel() > 20
    assert 120 * 0.55 < levels.min() < 90 and 150 < levels.max() < 120 * 1.45


def test_the_generator_alone_decides_and_global_ones_stay():
    transform, picture = ImageTransform(24, color_jitter=0.3), gradient(70, 50)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    squares = [transform(picture, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert torch.equal(squares[0], squares[1]) and not torch.equal(squares[0], squares[2])
    assert squares[0].dtype == torch.uint8 and squares[0].shape == (3, 24, 24)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(ValueError, match="'cutout': expected one of crop, none"):
        ImageTransform(8, "cutout")
