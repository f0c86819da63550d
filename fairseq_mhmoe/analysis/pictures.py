"""What the pictures share: figures without global state, one way to write them."""

import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fairseq_mhmoe.cli.files import write_bytes

# What fairseq imports turns on every message of every library, and matplotlib has thousands.
logging.getLogger("matplotlib").setLevel(logging.WARNING)

DPI = 120
# told apart also by those who see few colours (Okabe and Ito)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, which lays its axes out itself."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG; the file is there whole or not at all.

    Raises:
        ValueError: the name does not end in .png.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: pictures are PNG files; let the name end in .png")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())


def plain(text: str) -> str:
    """A name as a picture shows it: matplotlib takes what stands between two dollar signs for mathematics."""
    return text.replace("$", r"\$")


def colour(number: int) -> str:
    """The colour of the model with this number; they repeat after len(COLOURS)."""
    return COLOURS[number % len(COLOURS)]


def common_limits(grids: Sequence[np.ndarray]) -> tuple[float, float]:
    """0 and the largest number of all grids: one colour scale for all models that are compared."""
    largest = max((float(grid.max()) for grid in grids if grid.size), default=0.0)
    return 0.0, largest if largest > 0 else 1.0
