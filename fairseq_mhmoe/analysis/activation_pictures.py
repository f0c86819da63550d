"""Pictures of the experts in use: heat maps layers x experts (MH-MoE v1, figures 1a and 5), and what thresholds give.

L MoE layers, N experts. Models are what cli/analyze_activation.py writes into its JSON file.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fairseq_mhmoe.analysis.pictures import colour, common_limits, new_figure, plain

# name of a choice -> what the colour bar says
COLOUR_SCALES = {
    "relative": "selections of an expert / selections under an even load",
    "per-token": "selections of an expert / tokens",
    "per-sub-token": "selections of an expert / sub-tokens",
}
COLOUR_MAP = "viridis"
DEAD = "#d9d9d9"  # an expert that nothing chose is grey and crossed out
RELATIVE_TOP = 4.0  # more than four times the even load is one colour, else one collapsed model darkens all others
RELATIVE_TICKS = (0, 0.25, 0.5, 0.75, 1, 2, 3, 4)
PANEL_ROWS = 16  # of one picture
TITLE_SIZE, TEXT_SIZE = 9, 8
CHARACTER, TITLE_LINE = 0.078, 0.18  # inches, about, of a title
BAR_LENGTH = 4.5  # inches


def grid(figures: dict, scale: str) -> np.ndarray:
    """Numbers [L, N] of a heat map from a model's figures (`activation.report`)."""
    selections = np.array([layer["selections"] for layer in figures["layers"]], dtype=np.float64)
    if scale == "relative":
        return selections / np.maximum(selections.mean(axis=1, keepdims=True), 1e-9)
    unit = "tokens" if scale == "per-token" else "sub_tokens"
    return selections / np.array([[max(layer[unit], 1)] for layer in figures["layers"]])


def heat_maps(panels: Sequence[Sequence[tuple[str, dict] | None]], scale: str = "relative", note: str = "") -> Figure:
    """Heat maps of several models, all of one colour scale.

    Args:
        panels: rows of (title, figures); None leaves a place empty.
        scale: one of COLOUR_SCALES.
        note: said below the maps.
    """
    shown = [panel for row in panels for panel in row if panel is not None]
    grids = [grid(figures, scale) for _, figures in shown]
    never = "grey with a cross: never selected" if any((numbers == 0).any() for numbers in grids) else ""
    note = "; ".join(filter(None, (never, note)))
    norm, extend = colour_scale(grids, scale)
    columns = max(map(len, panels))
    width, height = panel_size(grids)
    titles = max(len(title_lines(title, width)) for title, _ in shown)
    all_rows = len(panels) * (height + 0.6 + TITLE_LINE * titles)
    figure = new_figure(columns * width + 1.3, all_rows + (0.3 if note else 0.0))
    axes = figure.subplots(len(panels), columns, squeeze=False)
    for row, places in zip(panels, axes, strict=True):
        for panel, place in zip([*row, *[None] * (columns - len(row))], places, strict=True):
            if panel is None:
                place.set_axis_off()
            else:
                draw_map(place, *panel, scale, norm, width)
    _draw_bar(figure, axes, norm, extend, scale, all_rows)
    if note:
        figure.supxlabel(plain(note), fontsize=TEXT_SIZE, x=0.01, ha="left")
    return figure


def _draw_bar(figure: Figure, axes: np.ndarray, norm: Normalize, extend: str, scale: str, height: float) -> None:
    """The colour bar beside the maps, which are `height` inches high: no longer than one can see at once."""
    length = min(height, BAR_LENGTH)
    shape = dict(shrink=length / height, aspect=length / 0.15, anchor=(0.0, 1.0), pad=0.01)
    bar = figure.colorbar(ScalarMappable(norm, COLOUR_MAP), ax=axes, extend=extend, extendfrac=0.04, **shape)
    if scale == "relative":
        ticks = [tick for tick in RELATIVE_TICKS if tick <= norm.vmax]
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    bar.set_label("\n".join(textwrap.wrap(COLOUR_SCALES[scale], int(length / 0.075))), fontsize=TEXT_SIZE)
    bar.ax.tick_params(labelsize=TEXT_SIZE)


def colour_scale(grids: Sequence[np.ndarray], scale: str) -> tuple[Normalize, str]:
    """The one scale of all maps, and at which end of it lie numbers outside.

    "relative" has the even load in the middle: half of the colours for experts that get less, half for more.
    """
    low, high = common_limits(grids)
    if scale != "relative":
        return Normalize(low, high), "neither"
    top = min(max(high, 2.0), RELATIVE_TOP)
    return TwoSlopeNorm(vcenter=1.0, vmin=low, vmax=top), "max" if high > top else "neither"


def panel_size(grids: Sequence[np.ndarray]) -> tuple[float, float]:
    """Width and height in inches of each heat map, for the largest one."""
    layers, experts = max(grid.shape[0] for grid in grids), max(grid.shape[1] for grid in grids)
    return float(np.clip(0.16 * experts, 4.0, 9.0)), float(np.clip(0.28 * layers, 1.0, 7.0))


def title_lines(title: str, width: float) -> list[str]:
    """The lines of a title over a map of this width in inches."""
    return [part for line in title.splitlines() for part in textwrap.wrap(line, int(width / CHARACTER))]


def draw_map(place: Axes, title: str, figures: dict, scale: str, norm: Normalize, width: float) -> None:
    """One heat map: rows are MoE layers, the first on top, columns experts; experts without selections crossed out.

    Args:
        width: in inches, for the title's lines.
    """
    numbers = grid(figures, scale)
    dead = numbers == 0
    place.set_facecolor(DEAD)
    place.imshow(np.ma.masked_array(numbers, dead), norm=norm, cmap=COLOUR_MAP, aspect="auto", interpolation="nearest")
    rows, columns = np.nonzero(dead)
    place.scatter(columns, rows, marker="x", s=18 if numbers.shape[1] <= 64 else 4, linewidths=0.6, color="#b2182b")
    place.set_title(plain("\n".join(title_lines(title, width))), fontsize=TITLE_SIZE, loc="left")
    place.set_xlabel("expert", fontsize=TEXT_SIZE)
    place.set_ylabel("layer", fontsize=TEXT_SIZE)
    place.xaxis.set_major_locator(MaxNLocator(12, integer=True, steps=[1, 2, 4, 5, 8, 10]))
    layers = [layer["layer"] for layer in figures["layers"]]
    step = math.ceil(len(layers) / 24)
    place.set_yticks(range(0, len(layers), step), layers[::step])
    place.tick_params(labelsize=TEXT_SIZE)


def title_of(model: dict) -> str:
    """What stands above a model's heat map: its experts, and the share that is activated."""
    kind = f"{model['experts']} experts, top-{model['top_k']}"
    if model["heads"] > 1:
        kind += f", {model['heads']} heads"
    threshold = model["activated_experts"]["threshold"]
    return f"{model['label']}: {kind}\n{activated(model, model['heads'])}\nabove a frequency of {threshold:.4g}"


def activated(figures: dict, heads: int) -> str:
    """The shares of activated experts in words; without heads they are one."""
    shares = figures["activated_experts"]
    if heads == 1:
        return f"activated {shares['per_token']:.1%}"
    return f"activated {shares['per_sub_token']:.1%} by sub-tokens, {shares['per_token']:.1%} by tokens"


def in_rows(panels: Sequence, width: float) -> list[list]:
    """Panels of one picture, as many side by side as fit."""
    columns = max(1, min(len(panels), int(18 // width)))
    return [list(panels[start : start + columns]) for start in range(0, len(panels), columns)]


def models_picture(models: Sequence[dict], scale: str) -> Figure:
    """Figure 1a or 5: the models that have experts side by side."""
    with_experts = [model for model in models if model["experts"]]
    panels = [(title_of(model), model) for model in with_experts]
    width, _ = panel_size([grid(model, scale) for model in with_experts])
    return heat_maps(in_rows(panels, width), scale, _note(models))


def source_pictures(models: Sequence[dict], scale: str) -> list[Figure]:
    """A row of heat maps for each source (language), a column for each model; PANEL_ROWS sources in a picture."""
    with_experts = [model for model in models if model["experts"]]
    names = list(dict.fromkeys(name for model in with_experts for name in model["sources"]))

    def panel(name: str, model: dict) -> tuple[str, dict] | None:
        figures = model["sources"].get(name)
        return figures and (f"{name}, {model['label']}\n{activated(figures, model['heads'])}", figures)

    rows = [[panel(name, model) for model in with_experts] for name in names]
    starts = range(0, len(rows), PANEL_ROWS)
    return [heat_maps(rows[start : start + PANEL_ROWS], scale, _note(models)) for start in starts]


def _note(models: Iterable[dict]) -> str:
    dense = [model["label"] for model in models if not model["experts"]]
    return f"without experts (dense): {', '.join(dense)}" if dense else ""


def thresholds_picture(models: Sequence[dict]) -> Figure:
    """Share of activated experts over the threshold, by tokens and by sub-tokens; dots: the thresholds reported."""
    figure = new_figure(10.5, 4.1)
    places = figure.subplots(1, 2, sharex=True, sharey=True)
    shown = [(model, colour(number)) for number, model in enumerate(models) if model["experts"]]
    smallest = min(grid(model, "per-sub-token")[grid(model, "per-sub-token") > 0].min() for model, _ in shown)
    largest = max(grid(model, "per-token").max() for model, _ in shown)
    start = max(1e-6, min(smallest / 2, *(model["activated_experts"]["threshold"] / 20 for model, _ in shown)))
    for place, unit in zip(places, ("token", "sub_token"), strict=True):
        for number, (model, line) in enumerate(shown):
            wide = 1.2 * (len(shown) - number - 1) if len(shown) <= 4 else 0.0  # so that equal curves all show
            x, y = steps(grid(model, f"per-{unit.replace('_', '-')}"), start, 1.5 * max(largest, 1.0))
            place.step(x, y, where="post", color=line, linewidth=1.5 + wide)
            shares = model["activated_experts"]
            dot = max(shares["threshold"], start), shares[f"per_{unit}"]
            place.plot(*dot, "o", color=line, markersize=5 + 2 * wide)
        words = unit.replace("_", "-") + "s"
        place.set_xscale("log")
        place.set_xlabel(f"threshold of selections / {words} (dot: reported)", fontsize=TEXT_SIZE)
        place.set_ylim(-0.03, 1.03)
        place.yaxis.set_major_formatter(PercentFormatter(1.0))
        place.grid(alpha=0.3)
        place.tick_params(labelsize=TEXT_SIZE)
        place.set_title(f"by {words}", fontsize=TITLE_SIZE, loc="left")
    places[0].set_ylabel("activated experts, mean over layers", fontsize=TEXT_SIZE)
    lines = [Line2D([], [], color=line, label=plain(textwrap.shorten(model["label"], 40))) for model, line in shown]
    figure.legend(handles=lines, loc="outside lower center", ncols=min(len(lines), 4), fontsize=TEXT_SIZE)
    return figure


def steps(frequencies: np.ndarray, start: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """The share of frequencies [L, N] above x, as corners (x, y) of an exact step function from start to end."""
    ordered = np.sort(frequencies.flatten())
    x = np.unique(np.concatenate([[start], ordered[ordered > start], [end]]))
    return x, 1 - np.searchsorted(ordered, x, side="right") / ordered.size
