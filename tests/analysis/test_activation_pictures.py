"""Heat maps and curves as figures: their numbers, one scale, labels and titles, from 4 to 256 experts."""

import numpy as np
import pytest
import torch
from matplotlib.colors import TwoSlopeNorm

from fairseq_mhmoe.analysis.activation import LayerCounts, report
from fairseq_mhmoe.analysis.activation_pictures import (
    COLOUR_SCALES,
    PANEL_ROWS,
    activated,
    colour_scale,
    grid,
    models_picture,
    source_pictures,
    steps,
    thresholds_picture,
)
from fairseq_mhmoe.analysis.pictures import DPI, save_png

from .test_pictures import png_size


def figures_of(loads, heads=1, top_k=1, threshold=None):
    """`report` of layers 1, 3, 5, ... with these loads."""
    sub_tokens = sum(loads[0]) // top_k
    counts = [
        LayerCounts(2 * number + 1, top_k, heads, torch.tensor(load), sub_tokens) for number, load in enumerate(loads)
    ]
    return report(counts, threshold, [0.1])


def model(label, loads, heads=1, top_k=1, sources=()):
    shape = {"label": label, "experts": len(loads[0]), "heads": heads, "top_k": top_k}
    return {**shape, **figures_of(loads, heads, top_k), "sources": dict(sources)}


def random_model(label, layers, experts, heads=1, seed=0):
    loads = np.random.default_rng(seed).multinomial(5000 * heads, np.full(experts, 1 / experts), size=layers)
    return model(label, loads.tolist(), heads)


SMALL = model("small", [[6, 2, 0, 4], [3, 3, 3, 3]])
LARGE = model("large", [[1, 5]], heads=2)
DENSE = {"label": "plain", "experts": None}


def maps(figure):
    """The axes with a heat map, in order."""
    return [axes for axes in figure.axes if axes.images]


def test_numbers_of_a_heat_map_by_hand():
    assert grid(SMALL, "relative").tolist() == [[2, pytest.approx(2 / 3), 0, pytest.approx(4 / 3)], [1, 1, 1, 1]]
    assert grid(SMALL, "per-token").tolist() == grid(SMALL, "per-sub-token").tolist()
    # 6 sub-tokens of 3 tokens
    assert grid(LARGE, "per-token").tolist() == [[pytest.approx(1 / 3), pytest.approx(5 / 3)]]
    assert grid(LARGE, "per-sub-token").tolist() == [[pytest.approx(1 / 6), pytest.approx(5 / 6)]]


@pytest.mark.parametrize("scale", COLOUR_SCALES)
def test_models_side_by_side_share_one_scale(scale):
    figure = models_picture([SMALL, DENSE, LARGE], scale)
    left, right = maps(figure)
    for axes, shown in ((left, SMALL), (right, LARGE)):
        image, numbers = axes.images[0], grid(shown, scale)
        assert image.norm is left.images[0].norm
        np.testing.assert_allclose(image.get_array().filled(0), numbers)
        assert image.get_array().mask.tolist() == (numbers == 0).tolist()
        assert axes.get_xlabel() == "expert" and axes.get_ylabel() == "layer"
    assert [text.get_text() for text in left.get_yticklabels()] == ["1", "3"]
    crosses = left.collections[0].get_offsets()
    assert crosses.tolist() == [[2, 0]]
    [bar] = [axes for axes in figure.axes if axes not in (left, right)]
    assert bar.get_ylabel().replace("\n", " ") == COLOUR_SCALES[scale]
    assert figure._supxlabel.get_text() == "grey with a cross: never selected; without experts (dense): plain"


def test_titles_say_model_and_activation():
    left, right = maps(models_picture([SMALL, LARGE], "relative"))
    # thresholds 1/8 and 1/4; of the large one both pass by tokens (1/3, 5/3), one by sub-tokens (1/6, 5/6)
    assert left.get_title(loc="left") == "small: 4 experts, top-1\nactivated 87.5%\nabove a frequency of 0.125"
    assert right.get_title(loc="left") == (
        "large: 2 experts, top-1, 2 heads\nactivated 50.0% by sub-tokens, 100.0% by tokens\nabove a frequency of 0.25"
    )
    assert activated(SMALL, 1) == "activated 87.5%"


def test_the_even_load_is_in_the_middle_and_the_scale_ends_at_four_times():
    even, extend = colour_scale([np.ones((2, 4))], "relative")
    assert isinstance(even, TwoSlopeNorm) and extend == "neither"
    assert even([0.0, 0.5, 1.0, 2.0]).tolist() == [0, 0.25, 0.5, 1]
    collapsed, extend = colour_scale([np.ones((2, 4)), np.array([[8.0, 0.0]])], "relative")
    assert (collapsed.vmax, extend) == (4.0, "max")
    share, extend = colour_scale([np.array([[8.0, 0.0]])], "per-token")
    assert (share.vmin, share.vmax, extend) == (0.0, 8.0, "neither")


@pytest.mark.parametrize("experts", [4, 32, 256])
def test_nothing_of_a_picture_is_cut_or_overlaps(experts, tmp_path):
    label = "a model whose name tells all of its options lr 0.001 and more"
    figure = models_picture([random_model(label, 6, experts, heads=4), random_model("b", 2, 4)], "relative")
    save_png(figure, tmp_path / "activation.png")
    width, height = figure.get_size_inches() * DPI
    assert png_size(tmp_path / "activation.png") == (int(width), int(height))
    assert 300 < width < 2600 and 150 < height < 1200
    renderer = figure.canvas.get_renderer()
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
    for number, box in enumerate(boxes):
        assert 0 <= box.x0 and box.x1 <= width and 0 <= box.y0 and box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[:number])
    for axes in maps(figure):
        assert axes.get_window_extent().width > 200 and axes.get_window_extent().height > 80
        ticks = [text for text in axes.get_xticklabels() if text.get_text()]
        assert 2 <= len(ticks) <= 16


def test_many_models_go_into_rows():
    figure = models_picture([random_model(f"model {number}", 2, 8) for number in range(6)], "relative")
    places = [axes.get_subplotspec() for axes in maps(figure)]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [
        (0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)
    ]  # fmt: skip


def test_a_row_for_each_source_and_a_column_for_each_model():
    de, en = figures_of([[4, 0]]), figures_of([[1, 3]])
    one = model("one", [[5, 3]], sources={"de": de, "en": en})
    other = model("other", [[5, 3]], sources={"en": en})
    [figure] = source_pictures([one, DENSE, other], "relative")
    found = {
        (axes.get_subplotspec().rowspan.start, axes.get_subplotspec().colspan.start): (
            axes.get_title(loc="left"),
            axes.images[0].get_array().filled(0).tolist(),
        )
        for axes in maps(figure)
    }
    assert found == {
        (0, 0): ("de, one\nactivated 50.0%", [[2, 0]]),
        (1, 0): ("en, one\nactivated 50.0%", [[0.5, 1.5]]),
        (1, 1): ("en, other\nactivated 50.0%", [[0.5, 1.5]]),
    }


def test_very_many_sources_go_into_several_pictures():
    sources = {f"s{number}": figures_of([[4, 2]]) for number in range(PANEL_ROWS + 2)}
    pictures = source_pictures([model("one", [[5, 3]], sources=sources)], "relative")
    assert [len(maps(figure)) for figure in pictures] == [PANEL_ROWS, 2]


def test_the_curve_of_thresholds_is_the_exact_share_above():
    x, y = steps(np.array([[0.1, 0.4], [0.4, 0.0]]), 0.01, 2.0)
    assert x.tolist() == [0.01, 0.1, 0.4, 2.0] and y.tolist() == [0.75, 0.5, 0.0, 0.0]


def test_the_picture_of_thresholds_has_a_line_and_a_dot_for_each_model():
    figure = thresholds_picture([DENSE, SMALL, LARGE])
    by_token, by_sub_token = figure.axes
    for axes, shares in ((by_token, (0.875, 1.0)), (by_sub_token, (0.875, 0.5))):
        lines = axes.lines
        assert [line.get_ydata()[0] for line in lines[::2]] == [0.875, 1.0]
        assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines[1::2]] == list(zip((0.125, 0.25), shares))
        assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
        assert axes.get_xscale() == "log" and axes.get_xlabel().startswith("threshold of selections / ")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["small", "large"]
