"""Pictures of curves: something is in each panel, names can be read and cover nothing."""

import itertools
import struct

import numpy as np
import pytest

from fairseq_mhmoe.analysis.curves import AXES, Curve
from fairseq_mhmoe.analysis.curves_picture import Line, draw_curves, unit
from fairseq_mhmoe.analysis.pictures import DPI, save_png
from fairseq_mhmoe.analysis.scaling import Point, can_scale, draw_scaling, lines_of


def make_curve(last, tokens=1e9, flops=1e18, seconds=40_000, points=20, errors=True, start=30):
    """A falling curve from `start` x last to last."""
    updates = np.arange(1, points + 1) * 1000
    share = updates / updates[-1]
    over = {"update": updates.astype(float), "tokens": tokens * share, "flops": flops * share, "time": seconds * share}
    values = last * start ** (1 - share)
    return Curve(updates, values, values * 0.02 if errors else None, over)


def check_readable(figure):
    """Draws the figure; nothing lies outside it, numbers at the ticks don't touch, the legend covers no panel."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    width, height = figure.canvas.get_width_height()
    boxes = []
    for panel in figure.axes:
        assert panel.lines and any(len(line.get_xdata()) for line in panel.lines)
        assert panel.get_xlabel()
        for which, low, high in (("x", *panel.get_xlim()), ("y", *panel.get_ylim())):
            axis = getattr(panel, f"{which}axis")
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels())
            texts = [text for place, text in ticks if low <= place <= high and text.get_visible() and text.get_text()]
            if which == "x" or panel.get_ylabel():
                assert len(texts) >= 2, f"{which} of {panel.get_xlabel()} has no numbers"
            extents = [text.get_window_extent(renderer) for text in texts]
            for one, other in itertools.combinations(extents, 2):
                assert not one.overlaps(other)
            boxes += extents
    for panel in figure.axes:
        boxes += [panel.xaxis.label.get_window_extent(renderer), panel.yaxis.label.get_window_extent(renderer)]
    for legend in figure.legends:
        box = legend.get_window_extent(renderer)
        assert not any(box.overlaps(panel.get_window_extent(renderer)) for panel in figure.axes)
        boxes += [box, *(text.get_window_extent(renderer) for text in legend.get_texts())]
    for box in boxes:
        if box.width and box.height:
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1


def png_size(path):
    """(width, height) in the header of a PNG file."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


@pytest.mark.parametrize(
    "axes, log_x, log_y",
    [
        (AXES, False, None),
        (AXES, True, True),
        (("tokens",), False, None),
        (("update", "time"), False, True),
        (("update", "tokens", "flops"), True, True),
    ],
)
def test_pictures_can_be_read(axes, log_x, log_y, tmp_path):
    lines = [Line(f"MH-MoE with {n} experts: {n}", make_curve(n), make_curve(n, errors=False)) for n in (12, 13, 16)]
    figure = draw_curves(lines, axes, "validation", "ppl", log_x, log_y)
    assert len(figure.axes) == len(axes)
    check_readable(figure)
    save_png(figure, tmp_path / "curves.png")
    width, height = png_size(tmp_path / "curves.png")
    assert (width, height) == figure.canvas.get_width_height()
    assert width >= 700 and height >= 400


@pytest.mark.parametrize("names", [["a"], [f"label {n}" for n in range(9)], ["a very long label of a run " * 3, "b"]])
def test_legends_of_any_length_cover_nothing(names):
    lines = [Line(name, make_curve(10 + number)) for number, name in enumerate(names)]
    figure = draw_curves(lines, AXES, "validation", "ppl")
    check_readable(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(styles) == len(names)


@pytest.mark.parametrize("log_x", [False, True])
@pytest.mark.parametrize(
    "start, last, log_y", [(1.05, 3.2, True), (1.5, 200, True), (1e6, 1, True), (1.001, 0.9, False)]
)
def test_axes_of_any_range_have_numbers(log_x, start, last, log_y):
    curve = make_curve(last, tokens=3e4, flops=2e11, seconds=90, start=start)
    check_readable(draw_curves([Line("a", curve)], AXES, "validation", "loss", log_x, log_y))


def test_the_scale_of_the_figure_follows_its_range():
    for start, limits, expected in (
        (3, None, "linear"),
        (30, None, "log"),
        (30, (10, 20), "linear"),
        (3, (1, 90), "log"),
    ):
        figure = draw_curves(
            [Line("a", make_curve(10, start=start))], ("update",), "validation", "ppl", y_limits=limits
        )
        assert figure.axes[0].get_yscale() == expected
        if limits:
            assert figure.axes[0].get_ylim() == limits


def test_a_band_where_there_is_an_error_and_one_line_per_curve():
    lines = [Line("three seeds", make_curve(5)), Line("one", make_curve(6, errors=False), make_curve(6, errors=False))]
    [panel] = draw_curves(lines, ("tokens",), "validation", "ppl").axes
    assert len(panel.lines) == 3 and len(panel.collections) == 1
    assert panel.lines[0].get_ydata().tolist() == lines[0].valid.values.tolist()
    assert panel.lines[0].get_xdata()[-1] == pytest.approx(1000) and panel.get_xlabel() == "tokens (millions)"
    low, high = panel.collections[0].get_datalim(panel.transData).intervaly
    assert low == pytest.approx(5 * 0.98) and high == pytest.approx(lines[0].valid.values[0] * 1.02)


def test_a_group_is_left_out_of_a_panel_that_it_has_nothing_for():
    short = make_curve(6)
    del short.over["flops"]
    figure = draw_curves([Line("a", make_curve(5)), Line("b", short)], ("update", "flops"), "validation", "ppl")
    drawn = [[len(line.get_xdata()) for line in panel.lines] for panel in figure.axes]
    assert drawn == [[20, 20], [20, 0]]


def test_units_keep_numbers_short():
    assert unit("tokens", 5e6) == (1e6, "tokens (millions)") and unit("tokens", 900) == (1, "tokens")
    assert unit("time", 50) == (1, "wall clock (seconds)") and unit("time", 7200) == (3600, "wall clock (hours)")
    assert unit("update", 1e6) == (1, "update") and unit("flops", 0) == (1, "training FLOPs ($10^{0}$)")
    assert unit("flops", 2.5e16) == (1e15, "training FLOPs ($10^{15}$)")


def make_points():
    points = [Point("d", "dense", 0, 16, 0.1)]
    return points + [Point(f"{kind}{n}", kind, n, value - n / 20, 0.2) for kind, value in (("xmoe", 15), ("mhmoe", 13))
                     for n in (64, 8, 16)]  # fmt: skip


def test_scaling_by_hand(tmp_path):
    points = make_points()
    lines = lines_of([*points, Point("?", None, 8, 1, None), Point("?", "smoe", None, 1, None)])
    assert [point.experts for point in lines["mhmoe"]] == [8, 16, 64] and set(lines) == {"dense", "xmoe", "mhmoe"}
    figure = draw_scaling(lines, "valid", "ppl")
    check_readable(figure)
    [panel] = figure.axes
    assert [text.get_text() for text in panel.get_xticklabels()] == ["8", "16", "64"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dense", "X-MoE", "MH-MoE"]
    assert panel.containers[0].lines[0].get_ydata().tolist() == [14.6, 14.2, 11.8]
    save_png(figure, tmp_path / "scaling.png")
    assert png_size(tmp_path / "scaling.png") == (6 * DPI, round(4.4 * DPI))


def test_when_there_is_a_scaling_plot():
    points = make_points()
    assert can_scale(points) and not can_scale(points[:2]) and not can_scale([points[0], points[1], points[4]])
    with pytest.raises(ValueError, match="a and b are both xmoe with 8 experts; tell them apart with --kinds"):
        lines_of([Point("a", "xmoe", 8, 1, None), Point("b", "xmoe", 8, 2, None)])
