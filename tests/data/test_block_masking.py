"""Masks of patches: exact numbers, unions of blocks of BEiT's proportions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.data import block_masking
from fairseq_mhmoe.data.block_masking import block_mask, draw_block, masked_patches, smallest_block

sides = st.integers(1, 18)


@given(height=sides, width=sides, ratio=st.floats(0, 1), seed=st.integers(0, 1 << 40))
def test_the_number_of_masked_patches_is_exact(height, width, ratio, seed):
    count = masked_patches(height * width, ratio)
    mask = block_mask(np.random.default_rng(seed), height, width, count)
    assert mask.shape == (height, width)
    assert mask.sum() == count


@pytest.mark.parametrize(
    "patches, ratio, count", [(196, 0.4, 78), (196, 0, 0), (4, 0.01, 1), (64, 1, 64), (900, 0.4, 360)]
)
def test_the_ratio_counts_patches(patches, ratio, count):
    assert masked_patches(patches, ratio) == count


@given(side=st.integers(4, 16), seed=st.integers(0, 1 << 40))
def test_masks_are_unions_of_rectangles(side, seed):
    """Whole blocks of 16 patches of 196 or more, but for the last one, which is cut to the number."""
    drawn, whole = [], np.zeros((side, side), dtype=bool)
    count = masked_patches(side * side, 0.4)

    class Recorded(np.random.Generator):
        def integers(self, *arguments, **options):
            places.append(super().integers(*arguments, **options))
            return places[-1]

    def draw(*arguments):
        drawn.append((draw_block(*arguments), len(places)))
        return drawn[-1][0]

    places = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_masking, "draw_block", draw)
        mask = block_mask(Recorded(np.random.PCG64(seed)), side, side, count)
    for (rows, columns), place in drawn:
        top, left = (int(each) for each in places[place : place + 2])
        last = whole.copy()
        whole[top : top + rows, left : left + columns] = True
    assert not (mask & ~whole).any()
    assert (mask >= last).all(), "all blocks but the last are whole"
    for (rows, columns), _ in drawn:
        assert rows * columns >= 0.6 * smallest_block(side * side) - 1
        # rounding of sides, and blocks cut at the grid's
        assert 0.3 / 2 <= rows / columns <= 2 / 0.3


def test_the_last_block_is_cut_along_a_side():
    block = np.zeros((4, 5), dtype=bool)
    block_masking._cover(np.random.default_rng(3), block, 7)
    full_rows, full_columns = block.all(axis=1).sum(), block.all(axis=0).sum()
    assert block.sum() == 7
    assert full_rows == 1 or full_columns == 1


def test_masks_differ_and_reach_all_patches():
    generator = np.random.default_rng(0)
    masks = np.stack([block_mask(generator, 8, 8, 26) for _ in range(400)])
    assert len({mask.tobytes() for mask in masks}) > 395
    shares = masks.mean(axis=0)
    # corners are in fewer blocks than the middle
    assert shares.min() > 0.06
    assert shares.max() < 0.75
    # no side is preferred by the cut of the last block
    assert abs(shares - shares[::-1]).max() < 0.12
    assert abs(shares - shares.T).max() < 0.12


def test_blocks_are_blocks_and_not_dots():
    """Of a masked patch's right and lower neighbours far more are masked than the ratio says."""
    masks = np.stack([block_mask(np.random.default_rng(seed), 14, 14, 78) for seed in range(50)])
    beside = masks[:, :, :-1] & masks[:, :, 1:]
    assert beside.sum() / masks[:, :, :-1].sum() > 0.75
