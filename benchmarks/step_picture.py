"""The picture of profile_step.py: one bar a model, made of the parts of its step."""

import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

COLORS = {
    "embedding": "#9ecae1",
    "attention": "#3182bd",
    "norms and residuals": "#c6dbef",
    "dense feed-forward": "#08519c",
    "head and merge layers": "#b98b59",
    "router and selection": "#de2d26",
    "dispatch and combine": "#fc9272",
    "experts: matrix products": "#f0a30a",
    "experts: activation and biases": "#fde08d",
    "balance losses and statistics": "#7f0000",
    "output layer and loss": "#74c476",
    "gradient norm and scaling": "#bcbddc",
    "optimizer": "#756bb1",
    "data, logging and the rest": "#bdbdbd",
}
SMALLEST_LABEL = 0.045  # share of the longest bar that a percentage needs


def draw(rows: list[dict], title: str, path: Path) -> None:
    """Write the picture.

    Args:
        rows: {"model", "ms", "parts": {part: ms}} each; all with the same parts in the same order.
        path: a .png file; its folder is made.
    """
    figure, axes = pyplot.subplots(figsize=(12, 2.6 + 0.62 * len(rows)), layout="constrained")
    longest = max(row["ms"] for row in rows)
    for place, row in enumerate(rows):
        left = 0.0
        for part, ms in row["parts"].items():
            axes.barh(place, ms, left=left, color=COLORS[part], edgecolor="white", linewidth=0.6, height=0.72)
            if ms > SMALLEST_LABEL * longest:
                share, color = f"{100 * ms / row['ms']:.0f} %", "white" if is_dark(COLORS[part]) else "black"
                axes.text(left + ms / 2, place, share, ha="center", va="center", fontsize=9, color=color)
            left += ms
        axes.text(left + 0.01 * longest, place, f"{left:.0f} ms", va="center", fontsize=10)
    axes.set_yticks(range(len(rows)), [row["model"].replace("_", " ") for row in rows], fontsize=11)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.09 * longest)
    axes.set_xlabel("milliseconds per update, forward and backward pass together")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    used = [part for part in COLORS if any(row["parts"].get(part, 0) > 0 for row in rows)]
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=COLORS[part]) for part in used]
    figure.legend(handles, used, loc="outside lower center", ncols=4, frameon=False, fontsize=10)
    save(figure, path)


def is_dark(color: str) -> bool:
    """Whether white text is easier to read on it than black."""
    red, green, blue = matplotlib.colors.to_rgb(color)
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.55


def save(figure, path: Path) -> None:
    """Write it beside the target, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    figure.savefig(temporary, format="png", dpi=130)
    pyplot.close(figure)
    os.replace(temporary, path)
