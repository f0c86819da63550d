"""Repairs for numpy 2 and torch >= 2.6."""

import numpy as np
import torch
from fairseq.data import TokenBlockDataset

import fairseq_mhmoe  # noqa: F401  (installs the hooks)


def test_blocks_that_end_at_sentences_can_be_made():
    sentences = [torch.tensor([4, 5, 2]), torch.tensor([6, 2])]
    blocks = TokenBlockDataset(sentences, [3, 2], block_size=None, pad=1, eos=2, break_mode="eos")
    assert [block.tolist() for block in blocks] == [[4, 5, 2], [6, 2]]


def test_numpy_has_the_names_that_fairseq_uses():
    assert np.vectorize(lambda i: i, otypes=[np.compat.long])(np.arange(2)).tolist() == [0, 1]
    assert np.int is int
