"""Pixels of the picture of the load, against the load."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.criterions import load_picture as module
from fairseq_mhmoe.criterions.load_picture import cell, colours, load_picture, relative_load
from fairseq_mhmoe.criterions.routing_report import place_of


def colour_by_hand(load, even):
    """Straight lines between blue, white and red in log2, ends at an 8th and 8 times."""
    if even == 0:
        return (190, 190, 190)
    if load == 0:
        return (0, 0, 0)
    place = max(-3.0, min(3.0, math.log2(load / even))) / 3
    end = (178, 24, 43) if place > 0 else (33, 102, 172)
    return tuple(247 + abs(place) * (part - 247) for part in end)


@given(
    st.integers(1, 5).flatmap(
        lambda num_layers: st.integers(1, 40).flatmap(
            lambda num_experts: st.lists(
                st.lists(st.one_of(st.just(0), st.integers(0, 5000)), min_size=num_experts, max_size=num_experts),
                min_size=num_layers,
                max_size=num_layers,
            )
        )
    )
)
def test_every_cell_has_the_colour_of_its_load(load):
    load = np.array(load, dtype=float)
    num_layers, num_experts = load.shape
    layers = [2 * place + 1 for place in range(num_layers)]
    picture = load_picture(load, layers)
    for place in range(num_layers):
        for expert in range(num_experts):
            rows, columns = cell(place, expert, num_experts, layers)
            inside = picture[rows, columns][1:, 1:].reshape(-1, 3)  # without the lines
            expected = colour_by_hand(load[place, expert], load[place].sum() / num_experts)
            assert np.abs(inside - np.array(expected)).max() <= 0.51


@pytest.mark.parametrize("num_experts", [1, 2, 3, 8, 9, 33, 100, 128, 257, 1000, 1025, 2049])
@pytest.mark.parametrize("layers", [[0], [1, 3, 5], list(range(90, 102))])
def test_any_size_fits(num_experts, layers):
    picture = load_picture(np.ones((len(layers), num_experts)), layers)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    for place, expert in ((0, 0), (len(layers) - 1, num_experts - 1)):
        rows, columns = cell(place, expert, num_experts, layers)
        assert 0 < rows.start < rows.stop < picture.shape[0]
        assert 0 < columns.start < columns.stop < picture.shape[1]
    assert picture.shape[1] < 1400 or num_experts > 1024


def test_cells_do_not_overlap_and_follow_the_order_of_layers_and_experts():
    first, right, below = (cell(place, expert, 8, [1, 3]) for place, expert in ((0, 0), (0, 1), (1, 0)))
    assert right[1].start == first[1].stop and right[0] == first[0]
    assert below[0].start == first[0].stop and below[1] == first[1]


def test_the_scale_is_the_same_whatever_the_load():
    def scale(load):
        picture = load_picture(np.array(load, dtype=float), [1])
        return picture[cell(0, 0, 2, [1])[0].stop :]

    assert np.array_equal(scale([[1, 1]]), scale([[100, 0]]))


def test_numbers_of_layers_and_experts_stand_beside_the_cells():
    def margins(layers, num_experts):
        picture = load_picture(np.ones((len(layers), num_experts)), layers)
        rows, columns = cell(0, 0, num_experts, layers)
        return picture[rows, : columns.start], picture[: rows.start, columns.start :]

    left, _ = margins([1], 4)
    other_left, _ = margins([7], 4)
    assert left.min() < 100 and not np.array_equal(left, other_left)
    _, top = margins([1], 4)
    assert top[-18:, :96].min() < 100


def test_every_glyph_can_be_told_from_every_other():
    assert len({module.GLYPHS[letter] for letter in "0123456789/"}) == 11
    assert set("".join(module.TITLES)) <= set(module.GLYPHS)
    assert all(len(glyph) == 5 for glyph in module.GLYPHS.values())


def test_neighbouring_powers_of_two_have_colours_that_can_be_told_apart():
    steps = colours(np.array([0, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8])).astype(int)
    assert np.abs(np.diff(steps, axis=0)).sum(axis=1).min() > 60


def test_load_over_an_even_load():
    relative = relative_load(np.array([[6.0, 2, 0, 0], [0, 0, 0, 0]]))
    assert relative[0].tolist() == [3, 1, 0, 0]
    assert np.isnan(relative[1]).all()


def test_sets_of_experts_of_a_modality_have_their_names_and_order():
    picture = load_picture(np.ones((2, 4)), ["3_image", "11_text"])
    assert module.drawn("3_image") == "3 IMAGE" and module.drawn(3) == "3"
    rows, columns = cell(1, 3, 4, ["3_image", "11_text"])
    assert columns.start > module.text_width("11 TEXT") and columns.stop < picture.shape[1]
    assert sorted(["11_text", "3_text", "3_image", "9"], key=place_of) == ["3_image", "3_text", "9", "11_text"]
