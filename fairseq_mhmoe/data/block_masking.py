"""Which patches of an image are hidden: random blocks, as BEiT masks, but the same number in every image.

H, W rows and columns of the grid of patches, P = H * W.
"""

import math

import numpy as np

# BEiT: blocks of 16 patches or more in a grid of 14 x 14, sides in a ratio from 0.3 to 1 / 0.3
BEIT_GRID = 14 * 14
BEIT_SMALLEST = 16
NARROWEST = 0.3
ATTEMPTS = 10


def masked_patches(patches: int, ratio: float) -> int:
    """How many of an image's patches are masked: ratio * P, rounded; at least one unless the ratio is 0."""
    return max(1, round(ratio * patches)) if ratio > 0 else 0


def smallest_block(patches: int) -> int:
    """Patches of the smallest block: BEiT's 16 of 196, in proportion."""
    return max(1, round(BEIT_SMALLEST * patches / BEIT_GRID))


def block_mask(generator: np.random.Generator, height: int, width: int, count: int) -> np.ndarray:
    """A mask of exactly `count` patches, the union of random blocks: [H, W] bool.

    Blocks may overlap. Of a block with more new patches than are wanted only whole rows or columns from one side, and
    a piece of the next one, are taken, so that nothing but the last block is no rectangle of BEiT's proportions.
    """
    mask = np.zeros((height, width), dtype=bool)
    left, failed = count, 0
    while left > 0:
        rows, columns = draw_block(generator, height, width, left)
        if failed < ATTEMPTS:
            top = int(generator.integers(height - rows + 1))
            first = int(generator.integers(width - columns + 1))
        else:
            # few patches are left, which random places would miss for long
            top, first = _around_a_free_patch(generator, mask, rows, columns)
        block = mask[top : top + rows, first : first + columns]
        new = block.size - int(block.sum())
        failed = failed + 1 if new == 0 else 0
        if new <= left:
            block[:] = True
            left -= new
        else:
            _cover(generator, block, left)
            left = 0
    return mask


def draw_block(generator: np.random.Generator, height: int, width: int, left: int) -> tuple[int, int]:
    """Rows and columns of the next block, when `left` patches are still to be masked."""
    smallest = smallest_block(height * width)
    area = generator.uniform(smallest, max(smallest, left))
    aspect = math.exp(generator.uniform(math.log(NARROWEST), -math.log(NARROWEST)))
    rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    return min(max(rows, 1), height), min(max(columns, 1), width)


def _around_a_free_patch(generator, mask: np.ndarray, rows: int, columns: int) -> tuple[int, int]:
    """First row and column of a block that holds a patch which is not masked yet."""
    row, column = divmod(int(generator.choice(np.flatnonzero(~mask))), mask.shape[1])
    top = generator.integers(max(0, row - rows + 1), min(row, mask.shape[0] - rows) + 1)
    first = generator.integers(max(0, column - columns + 1), min(column, mask.shape[1] - columns) + 1)
    return int(top), int(first)


def _cover(generator, block: np.ndarray, count: int) -> None:
    """Mask, in place, `count` new patches of a block: from a random corner, row by row or column by column."""
    down, right, by_columns = generator.integers(2, size=3)
    view = block[:: 1 if down else -1, :: 1 if right else -1]
    if by_columns:
        view = view.T
    free = np.argwhere(~view)[:count]
    view[free[:, 0], free[:, 1]] = True
