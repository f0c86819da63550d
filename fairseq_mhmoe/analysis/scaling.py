"""Final figure against the number of experts, one line per kind of model (MH-MoE v1, figure 6)."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from fairseq_mhmoe.analysis.curves_picture import FIGURE_NAMES
from fairseq_mhmoe.analysis.pictures import colour, new_figure, plain

KIND_NAMES = {"dense": "dense", "smoe": "SMoE", "xmoe": "X-MoE", "mhmoe": "MH-MoE"}


@dataclass(frozen=True)
class Point:
    """The end of one group's curve."""

    label: str
    kind: str | None  # None: not known
    experts: int | None  # 0: dense
    value: float
    error: float | None  # standard error; None for a single run


def lines_of(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of each kind by rising number of experts; those whose kind or number is unknown are left out.

    Raises:
        ValueError: one kind has two points of as many experts, so that they make no line.
    """
    lines: dict[str, list[Point]] = {}
    for point in sorted(
        (point for point in points if point.kind and point.experts is not None), key=lambda p: p.experts
    ):
        line = lines.setdefault(point.kind, [])
        if line and line[-1].experts == point.experts:
            raise ValueError(
                f"{line[-1].label} and {point.label} are both {point.kind} with {point.experts} experts; "
                "tell them apart with --kinds"
            )
        line.append(point)
    return lines


def can_scale(points: Sequence[Point]) -> bool:
    """Whether some kind has more than one number of experts."""
    counts: dict[str, set[int]] = {}
    for point in points:
        if point.kind and point.experts:
            counts.setdefault(point.kind, set()).add(point.experts)
    return any(len(found) > 1 for found in counts.values())


def draw_scaling(lines: dict[str, list[Point]], title: str, figure_name: str) -> Figure:
    """The picture; bars are one standard error, a dense model is a level."""
    figure = new_figure(6.0, 4.4)
    panel = figure.subplots()
    counts = sorted({point.experts for line in lines.values() for point in line if point.experts})
    for number, (kind, line) in enumerate(lines.items()):
        name = plain(KIND_NAMES.get(kind, kind))
        sparse = [point for point in line if point.experts]
        for point in line:
            if not point.experts:
                panel.axhline(point.value, color=colour(number), linestyle="--", label=None if sparse else name)
                if point.error:
                    low, high = point.value - point.error, point.value + point.error
                    panel.axhspan(low, high, color=colour(number), alpha=0.15, linewidth=0)
        if sparse:
            errors = [point.error or 0.0 for point in sparse]
            values = [point.value for point in sparse]
            style = dict(marker="o", capsize=3, linewidth=1.6, color=colour(number), label=name)
            panel.errorbar([point.experts for point in sparse], values, yerr=errors, **style)
    panel.set_xscale("log", base=2)
    panel.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)
    panel.xaxis.set_major_locator(FixedLocator(counts))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.set_xlabel("experts per MoE layer")
    panel.set_ylabel(f"final {FIGURE_NAMES.get(figure_name, figure_name)}")
    panel.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=max(1, len(lines)), frameon=False)
    figure.suptitle(plain(title))
    return figure
