"""Maps over image patches: to how many different experts each patch's sub-tokens go (MH-MoE v1, figures 8 and 10).

P_h x P_w patches of an image, T tokens, L MoE layers, H heads, K choices, N experts.
"""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fairseq_mhmoe.analysis.diversity import distinct_experts
from fairseq_mhmoe.analysis.pictures import new_figure, plain, save_png

COLOURS = "viridis"
OPACITY = 0.6  # of a map over its image
IMAGE_INCHES = 2.6


def patch_map(experts: Tensor, num_experts: int, grid: tuple[int, int], first: int = 0) -> np.ndarray:
    """Different experts of each patch, averaged over layers.

    Args:
        experts: [L, T, H, K] int64 expert numbers of one image's tokens; N means: nowhere.
        num_experts: N.
        grid: (P_h, P_w); the patches are tokens first .. first + P_h P_w - 1, row by row.
        first: tokens before the patches, such as a class token.
    Returns:
        [P_h, P_w] float64.
    Raises:
        ValueError: there are not so many tokens.
    """
    rows, columns = grid
    if rows < 1 or columns < 1 or first < 0:
        raise ValueError(f"grid {rows} x {columns} from token {first}: expected 1 or more rows and columns, from 0 on")
    if experts.ndim != 4 or experts.shape[0] < 1:
        raise ValueError(f"experts of shape {list(experts.shape)}: expected [L, T, H, K] with 1 or more layers")
    if first + rows * columns > experts.shape[1]:
        raise ValueError(
            f"{rows} x {columns} patches from token {first} on, but there are {experts.shape[1]} tokens; check the "
            "grid of patches"
        )
    patches = experts[:, first : first + rows * columns]
    numbers = distinct_experts(patches, num_experts).double().mean(0)
    return numbers.view(rows, columns).cpu().numpy()


def upscale(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map [P_h, P_w] in the size of its image, [height, width]: each pixel has its patch's number.

    Raises:
        ValueError: the image has fewer pixels than the map has patches, so that some would not show.
    """
    rows, columns = grid.shape
    if height < rows or width < columns:
        raise ValueError(f"an image of {height} x {width} pixels is too small for {rows} x {columns} patches")

    def patch_of(pixels: int, patches: int) -> np.ndarray:
        """The patch in which the middle of each pixel lies."""
        return (2 * np.arange(pixels) + 1) * patches // (2 * pixels)

    return grid[patch_of(height, rows)[:, None], patch_of(width, columns)[None, :]]


def patches_picture(image: np.ndarray, maps: Sequence[tuple[str, np.ndarray]], title: str = "") -> Figure:
    """An image, and beside it each checkpoint's map over it, with one colour scale for all.

    Under the maps the image is grey, so that colours are those of the scale.

    Args:
        image: [height, width, 3], uint8 or float in 0..1.
        maps: (label, such as "update 1,000"; [P_h, P_w] of `patch_map`) of each checkpoint, in the order of the run.
        title: over the picture.
    Raises:
        ValueError: the image is none, there are no maps, or they are not numbers or of different sizes.
    """
    image = _checked_image(image)
    grids = _checked_maps(maps)
    height, width = image.shape[:2]
    low, high = _limits(grids)
    inches = IMAGE_INCHES * width / max(height, width), IMAGE_INCHES * height / max(height, width)
    figure = new_figure((len(maps) + 1) * (inches[0] + 0.1) + 1.0, inches[1] + (0.8 if title else 0.5))
    axes = figure.subplots(1, len(maps) + 1, squeeze=False)[0]
    _frame(axes[0], "image").imshow(image)
    for axis, (label, _), grid in zip(axes[1:], maps, grids, strict=True):
        _frame(axis, label).imshow(_grey(image), cmap="gray", vmin=0, vmax=1)
        drawn = axis.imshow(upscale(grid, height, width), cmap=COLOURS, vmin=low, vmax=high, alpha=OPACITY)
    bar = figure.colorbar(drawn, ax=list(axes), shrink=0.85, pad=0.01)
    bar.solids.set_alpha(1)
    bar.set_label("different experts of a patch's\nsub-tokens, mean over layers", fontsize=8)
    if title:
        figure.suptitle(plain(title), fontsize=11)
    return figure


def draw_patches(
    image: np.ndarray, maps: Sequence[tuple[str, np.ndarray]], path: str | os.PathLike, title: str = ""
) -> None:
    """Write `patches_picture` as PNG; arguments and errors as there."""
    save_png(patches_picture(image, maps, title), path)


def _checked_image(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image of shape {list(image.shape)}: expected [height, width, 3]")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating) or not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            f"image of type {image.dtype} with values from {image.min()} to {image.max()}: expected uint8, or floating "
            "point numbers from 0 to 1; undo the normalisation of the model's input"
        )
    return image.astype(np.float32)  # matplotlib takes no half precision


def _grey(image: np.ndarray) -> np.ndarray:
    """[height, width] 0..1, as bright as the image looks (ITU-R BT.601)."""
    scaled = image / 255 if image.dtype == np.uint8 else image
    return scaled @ np.array([0.299, 0.587, 0.114])


def _checked_maps(maps: Sequence[tuple[str, np.ndarray]]) -> list[np.ndarray]:
    if not maps:
        raise ValueError("no maps to draw; expected one or more checkpoints")
    grids = [np.asarray(grid, dtype=float) for _, grid in maps]
    for (label, _), grid in zip(maps, grids, strict=True):
        if grid.ndim != 2 or 0 in grid.shape or grid.shape != grids[0].shape:
            raise ValueError(
                f"map {label!r} of shape {list(grid.shape)}: expected [rows, columns] of patches, the same for each "
                f"checkpoint ({list(grids[0].shape)})"
            )
        if not np.isfinite(grid).all():
            raise ValueError(f"map {label!r} has values that are no numbers; expected numbers of experts")
    return grids


def _limits(grids: Sequence[np.ndarray]) -> tuple[float, float]:
    """Smallest and largest number of all maps; a bit around it where there is only one."""
    low, high = min(float(grid.min()) for grid in grids), max(float(grid.max()) for grid in grids)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _frame(axis: Axes, label: str) -> Axes:
    axis.set_title(plain(label), fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
    return axis
