"""A picture of the load: one row per MoE layer, one column per expert, made of numpy only (no matplotlib in training).

A cell's colour is the expert's load over an even load, on a scale that never changes, so that pictures of different
updates, runs and models compare: white is even, red is up to 8 times that and more, blue an 8th and less, black is an
expert without any choice. L MoE layers, N experts.
"""

import numpy as np

FARTHEST = 3.0  # log2 of load / even load where the colours end
BLUE, WHITE, RED = ((33, 102, 172), (247, 247, 247), (178, 24, 43))
BLACK, GREY, PAPER, INK = ((0, 0, 0), (190, 190, 190), (255, 255, 255), (40, 40, 40))

WIDEST_ROW = 1024  # pixels that a row of cells should not exceed; a thousand experts get a pixel each
CELL_WIDTHS = 1, 24  # pixels, at least and at most
CELL_HEIGHT = 24
GAP = 8
LEGEND = (("0", 0.0), ("1/8", 1 / 8), ("1/4", 1 / 4), ("1/2", 1 / 2), ("1", 1.0), ("2", 2.0), ("4", 4.0), ("8", 8.0))
LEGEND_WIDTH = 40
TITLES = ("LAYER", "EXPERT", "LOAD / EVEN LOAD")

# Glyphs of 3 x 5 dots, an octal digit for each row of dots from the top.
GLYPHS = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757", "7": "71222",
    "8": "75757", "9": "75717", "/": "11244", " ": "00000", "A": "25755", "D": "65556", "E": "74747", "L": "44447",
    "G": "74557", "I": "72227", "M": "57755",
    "N": "57755", "O": "75557", "P": "75744", "R": "65655", "T": "72222", "V": "55552", "X": "55255", "Y": "55222",
}  # fmt: skip
DOT = 2  # pixels of a dot
TEXT_HEIGHT = 5 * DOT


def relative_load(load: np.ndarray) -> np.ndarray:
    """Load over an even load: [L, N] choices -> [L, N], 1 where even; NaN in a layer without any choice."""
    even = load.sum(axis=1, keepdims=True) / load.shape[1]
    return np.divide(load, even, out=np.full(load.shape, np.nan), where=even > 0)


def colours(relative: np.ndarray) -> np.ndarray:
    """Colours of loads over an even load: any shape -> the same and a last axis of 3, uint8; grey where NaN."""
    with np.errstate(divide="ignore"):
        place = np.clip(np.log2(relative) / FARTHEST, -1, 1)[..., None]
    end = np.where(place < 0, np.array(BLUE), np.array(RED))
    mixed = WHITE + np.abs(place) * (end - WHITE)
    mixed = np.where((relative == 0)[..., None], BLACK, mixed)
    return np.where(np.isnan(relative)[..., None], GREY, mixed).round().astype(np.uint8)


def load_picture(load: np.ndarray, layers) -> np.ndarray:
    """Draw loads: layers from the top in the order of the model, experts from the left by number, scale below.

    Args:
        load: [L, N] choices that each expert got.
        layers: L labels of layers, as in the names of the logged figures (moe_l1_..., moe_l1_image_...).
    Returns:
        [height, width, 3] uint8; cell (l, n) covers the pixels `cell(l, n, N, layers)`.
    """
    num_experts = load.shape[1]
    left, top, width = grid(num_experts, layers)
    last = str(num_experts - 1)
    right = left + max(width * num_experts + text_width(last), LEGEND_WIDTH * len(LEGEND), text_width(TITLES[2]))
    bottom = top + CELL_HEIGHT * len(layers)
    picture = np.full((bottom + 3 * GAP + 2 * TEXT_HEIGHT + CELL_HEIGHT, right + GAP, 3), PAPER, dtype=np.uint8)
    cells = colours(relative_load(load)).repeat(CELL_HEIGHT, axis=0).repeat(width, axis=1)
    if width > 4:
        cells[:, ::width] = cells[::CELL_HEIGHT] = INK  # lines between cells
    picture[top:bottom, left : left + width * num_experts] = cells

    write(picture, TITLES[0], GAP, top - GAP - TEXT_HEIGHT)
    write(picture, TITLES[1], left, GAP)
    for place, layer in enumerate(layers):
        write(picture, drawn(layer), GAP, top + place * CELL_HEIGHT + (CELL_HEIGHT - TEXT_HEIGHT) // 2)
    every = labelled_every(num_experts, width)
    for expert in range(0, num_experts, every):
        write(picture, str(expert), left + expert * width + 1, top - GAP - TEXT_HEIGHT)

    write(picture, TITLES[2], left, bottom + GAP)
    below = bottom + GAP + TEXT_HEIGHT + GAP
    for place, (label, relative) in enumerate(LEGEND):
        start = left + place * LEGEND_WIDTH
        picture[below : below + CELL_HEIGHT, start : start + LEGEND_WIDTH] = colours(np.array(relative))
        dark = relative == 0 or abs(np.log2(relative)) > 1
        middle = below + (CELL_HEIGHT - TEXT_HEIGHT) // 2
        write(picture, label, start + (LEGEND_WIDTH - text_width(label)) // 2, middle, PAPER if dark else INK)
    return picture


def grid(num_experts: int, layers) -> tuple[int, int, int]:
    """Left and upper edge of the cells and the width of one, in pixels."""
    width = int(np.clip(WIDEST_ROW // num_experts, *CELL_WIDTHS))
    left = GAP + max(map(text_width, (TITLES[0], *map(drawn, layers)))) + GAP
    return left, GAP + TEXT_HEIGHT + GAP + TEXT_HEIGHT + GAP, width


def cell(place: int, expert: int, num_experts: int, layers) -> tuple[slice, slice]:
    """Rows and columns of pixels of one cell; `place` counts the MoE layers from 0."""
    left, top, width = grid(num_experts, layers)
    start = left + expert * width
    return slice(top + place * CELL_HEIGHT, top + (place + 1) * CELL_HEIGHT), slice(start, start + width)


def labelled_every(num_experts: int, width: int) -> int:
    """Number every 1st, 2nd, 4th, 8th ... expert, so that the numbers do not touch."""
    every = 1
    while every * width < text_width(str(num_experts - 1)) + 3 * DOT:
        every *= 2
    return every


def drawn(layer) -> str:
    """A layer's label in the letters that there are: 3 or 3 IMAGE."""
    return str(layer).replace("_", " ").upper()


def text_width(text: str) -> int:
    """Pixels of a line of text."""
    return (4 * len(text) - 1) * DOT


def write(picture: np.ndarray, text: str, left: int, top: int, ink=INK) -> None:
    """Write text of known glyphs into a picture."""
    rows = [[int(digit) for digit in GLYPHS[letter]] for letter in text]
    dots = np.concatenate(
        [np.array([[row >> bit & 1 for bit in (2, 1, 0)] + [0] for row in letter]) for letter in rows], axis=1
    )[:, :-1]
    marked = dots.repeat(DOT, axis=0).repeat(DOT, axis=1).astype(bool)
    picture[top : top + marked.shape[0], left : left + marked.shape[1]][marked] = ink
