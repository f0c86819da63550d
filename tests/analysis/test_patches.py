"""Maps over image patches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.image import imread

from fairseq_mhmoe.analysis.patches import draw_patches, patch_map, patches_picture, upscale


@st.composite
def routings(draw):
    """Experts [L, T, H, K], N, the grid and the tokens before it."""
    layers, heads, top_k, num_experts = (draw(st.integers(1, 3)) for _ in range(4))
    grid, first = (draw(st.integers(1, 3)), draw(st.integers(1, 3))), draw(st.integers(0, 2))
    shape = layers, first + grid[0] * grid[1] + draw(st.integers(0, 2)), heads, top_k
    experts = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, num_experts)))
    return torch.from_numpy(experts), num_experts, grid, first


@given(routings())
def test_map_is_that_of_loops(drawn):
    experts, num_experts, grid, first = drawn
    found = patch_map(experts, num_experts, grid, first)
    assert found.shape == grid
    for row in range(grid[0]):
        for column in range(grid[1]):
            token = experts[:, first + row * grid[1] + column].tolist()
            sets = [{each for head in layer for each in head} - {num_experts} for layer in token]
            assert found[row, column] == pytest.approx(np.mean([len(each) for each in sets]))
    assert found.max() <= min(num_experts, experts.shape[2] * experts.shape[3])


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 9).map(float)),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_upscaled_map_keeps_its_numbers_and_their_places(grid, more_height, more_width):
    rows, columns = grid.shape
    height, width = rows + more_height, columns + more_width
    found = upscale(grid, height, width)
    assert found.shape == (height, width)
    for row in range(rows):
        for column in range(columns):
            middle = int((row + 0.5) * height / rows), int((column + 0.5) * width / columns)
            assert found[middle] == grid[row, column]
    # where sizes are multiples, all patches have equal shares
    even = upscale(grid, rows * 3, columns * 2)
    assert even.mean() == pytest.approx(grid.mean())
    assert (even[::3, ::2] == grid).all()


def test_a_small_image_is_refused():
    with pytest.raises(ValueError, match="3 x 8 pixels is too small for 4 x 4 patches"):
        upscale(np.zeros((4, 4)), 3, 8)


@pytest.mark.parametrize(
    "grid, first, message",
    [((2, 3), 0, "2 x 3 patches from token 0 on, but there are 5"), ((2, 2), 2, "from token 2"), ((0, 2), 0, "0 x 2")],
)
def test_a_grid_that_does_not_fit_is_refused(grid, first, message):
    with pytest.raises(ValueError, match=message):
        patch_map(torch.zeros(1, 5, 2, 1, dtype=torch.int64), 4, grid, first)


def test_experts_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\[5, 2, 1\]: expected \[L, T, H, K\]"):
        patch_map(torch.zeros(5, 2, 1, dtype=torch.int64), 4, (1, 1))


IMAGE = np.full((24, 36, 3), 0.5)


def test_picture_has_the_image_and_a_labelled_map_for_each_checkpoint():
    maps = [("update 100", np.array([[1.0, 2.0, 3.0]])), ("update 2,000", np.array([[2.0, 2.0, 5.0]]))]
    figure = patches_picture(IMAGE, maps, "run")
    image, *drawn, bar = figure.axes
    assert [axis.get_title() for axis in (image, *drawn)] == ["image", "update 100", "update 2,000"]
    assert (np.asarray(image.images[0].get_array()) == IMAGE.astype(np.float32)).all()
    for axis, (_, grid) in zip(drawn, maps, strict=True):
        under, over = axis.images
        assert np.allclose(under.get_array(), 0.5)  # the image in grey
        assert (np.asarray(over.get_array()) == upscale(grid, 24, 36)).all()
        assert over.get_clim() == (1.0, 5.0)  # one scale for all
    assert "different experts" in bar.get_ylabel()
    assert figure._suptitle.get_text() == "run"


def test_even_maps_have_a_scale_too():
    low, high = patches_picture(IMAGE, [("a", np.full((2, 2), 3.0))]).axes[1].images[1].get_clim()
    assert low < 3.0 < high


@settings(max_examples=8)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.sampled_from(["uint8", "float16", "float64"]))
def test_any_image_makes_a_picture(height, width, checkpoints, kind):
    image = np.zeros((height, width, 3)) if kind != "uint8" else np.zeros((height, width, 3), np.uint8)
    maps = [(f"update {number}", np.ones((1, 1)) * number) for number in range(checkpoints)]
    assert len(patches_picture(image.astype(kind), maps).axes) == checkpoints + 2


def test_a_written_picture_has_its_colours(tmp_path):
    draw_patches(IMAGE, [("update 1", np.array([[1.0, 4.0]]))], tmp_path / "patches.png", "run")
    pixels = imread(tmp_path / "patches.png")
    assert pixels.shape[0] > 200 and pixels.shape[1] > 500
    assert len(np.unique(pixels[..., :3].reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize(
    "image, maps, message",
    [
        (np.zeros((4, 4)), [("a", np.ones((1, 1)))], r"image of shape \[4, 4\]"),
        (np.full((4, 4, 3), 2.0), [("a", np.ones((1, 1)))], "from 2.0 to 2.0: expected uint8, or .* 0 to 1"),
        (np.full((4, 4, 3), np.nan), [("a", np.ones((1, 1)))], "expected uint8"),
        (np.full((4, 4, 3), 2), [("a", np.ones((1, 1)))], "type int64"),
        (IMAGE, [], "no maps"),
        (IMAGE, [("a", np.ones((1, 1))), ("b", np.ones((1, 2)))], r"map 'b' of shape \[1, 2\]"),
        (IMAGE, [("a", np.array([[np.nan]]))], "map 'a' has values that are no numbers"),
    ],
)
def test_what_can_not_be_drawn_is_refused(image, maps, message):
    with pytest.raises(ValueError, match=message):
        patches_picture(image, maps)
