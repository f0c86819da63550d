"""Draws curves: one panel per axis, one line per group, a band of one standard error (MH-MoE v1, figures 4 and 9)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from fairseq_mhmoe.analysis.curves import Curve
from fairseq_mhmoe.analysis.pictures import COLOURS, colour, new_figure, plain

FIGURE_NAMES = {
    "ppl": "perplexity",
    "loss": "loss (bits per token)",
    "nll_loss": "cross entropy (bits per token)",
    "bits_per_byte": "bits per byte",
    "moe_entropy": "router entropy",
    "moe_load_max": "largest expert load",
    "moe_active": "share of experts in use",
    "moe_dropped": "share of choices dropped",
}
UNITS = {
    "update": ((1, "update"),),
    "tokens": ((1e9, "tokens (billions)"), (1e6, "tokens (millions)"), (1e3, "tokens (thousands)"), (1, "tokens")),
    "time": ((86400, "wall clock (days)"), (3600, "wall clock (hours)"), (60, "wall clock (minutes)")),
}
LOG_FROM = 10  # the axis of the figure is logarithmic where the largest value is this many times the smallest
FEW_POINTS = 15  # which are marked
LINES = ("-", "--", ":", "-.")  # after as many groups as there are colours comes the next
INCHES_PER_LETTER = 0.075


@dataclass(frozen=True)
class Line:
    """One group of the picture."""

    name: str  # for the legend
    valid: Curve
    train: Curve | None = None


def draw_curves(
    lines: Sequence[Line],
    axes: Sequence[str],
    title: str,
    figure_name: str,
    log_x: bool = False,
    log_y: bool | None = None,
    y_limits: tuple[float, float] | None = None,
) -> Figure:
    """A picture with one panel per axis ("update", "tokens", "flops", "time").

    Args:
        lines: what to draw; a group is left out of a panel whose axis is not known of it.
        title: what was validated.
        figure_name: what the curves show, as in the log.
        log_y: None: logarithmic if what is shown spans more than a factor of LOG_FROM.
        y_limits: lowest and highest value shown.
    """
    columns = len(axes) if len(axes) < 4 else 2
    rows = -(-len(axes) // columns)
    width = max(4.6 * columns, 6.0)
    figure = new_figure(width, 3.6 * rows + 0.3 + 0.22 * len(lines) / legend_columns(lines, width))
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    if log_y is None:
        low, high = y_limits or limits_of(lines)
        log_y = low > 0 and high > LOG_FROM * low
    for panel, axis in zip(panels, axes):
        draw_panel(panel, lines, axis, log_x)
    if y_limits is not None:
        panels[0].set_ylim(*y_limits)
    for panel in panels:
        set_scale(panel, "y", log_y)
        panel.grid(alpha=0.25)
    for panel in panels[::columns]:
        panel.set_ylabel(FIGURE_NAMES.get(figure_name, figure_name))
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=legend_columns(lines, width), frameon=False)
    figure.suptitle(plain(title))
    return figure


def limits_of(lines: Sequence[Line]) -> tuple[float, float]:
    """The smallest and the largest value of all curves; zeros without any."""
    shown = [curve.values for line in lines for curve in (line.valid, line.train) if curve is not None]
    values = np.concatenate([np.zeros(0), *shown])
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)


def draw_panel(panel: Axes, lines: Sequence[Line], axis: str, log_x: bool) -> None:
    """The curves of all groups over one axis."""
    places = [curve.over[axis] for line in lines for curve in (line.valid, line.train) if curve and axis in curve.over]
    scale, name = unit(axis, max((place.max() for place in places if place.size), default=0.0))
    for number, line in enumerate(lines):
        style = {"color": colour(number), "linestyle": LINES[number // len(COLOURS) % len(LINES)]}
        if line.train is not None and axis in line.train.over:
            place = line.train.over[axis] / scale
            panel.plot(place, line.train.values, linewidth=0.8, alpha=0.5, **style)
        # an empty line keeps the legend whole where the axis is not known
        known = axis in line.valid.over
        place = line.valid.over[axis] / scale if known else np.zeros(0)
        values = line.valid.values if known else np.zeros(0)
        marker = "o" if len(values) <= FEW_POINTS else None
        panel.plot(place, values, linewidth=1.6, marker=marker, markersize=3, label=plain(line.name), **style)
        if line.valid.errors is not None and known:
            low, high = values - line.valid.errors, values + line.valid.errors
            panel.fill_between(place, low, high, color=colour(number), alpha=0.2, linewidth=0)
    set_scale(panel, "x", log_x)
    panel.set_xlabel(name)


def unit(axis: str, largest: float) -> tuple[float, str]:
    """(what to divide by, name of the axis with the unit), so that the numbers at the ticks are short."""
    if axis == "flops":
        exponent = 3 * int(np.log10(largest) // 3) if largest > 0 else 0
        return 10.0**exponent, rf"training FLOPs ($10^{{{exponent}}}$)"
    fitting = [(scale, name) for scale, name in UNITS[axis] if largest >= 2 * scale]
    return fitting[0] if fitting else (1, "wall clock (seconds)") if axis == "time" else UNITS[axis][-1]


def set_scale(panel: Axes, which: str, log: bool) -> None:
    """Linear or logarithmic, with numbers that can be read at the ticks: matplotlib leaves short log axes without."""
    axis: Axis = panel.xaxis if which == "x" else panel.yaxis
    if log:
        (panel.set_xscale if which == "x" else panel.set_yscale)("log", nonpositive="mask")
        low, high = sorted(panel.get_xlim() if which == "x" else panel.get_ylim())
        ratio = high / low if low > 0 else np.inf
        if ratio < 20:
            axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        else:
            subs = (1,) if ratio > (100 if which == "x" else 1e4) else (1, 2, 5)  # numbers side by side take more room
            axis.set_major_locator(LogLocator(10, subs=subs, numticks=12))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def legend_columns(lines: Sequence[Line], width: float) -> int:
    """How many names of this length fit side by side into a picture of this width in inches."""
    longest = max((len(line.name) for line in lines), default=1) * INCHES_PER_LETTER + 0.6
    return max(1, min(len(lines), int(width / longest)))
