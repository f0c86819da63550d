"""Scores by document: sums over runs of tokens, for any cut into blocks and any order of the batches."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fairseq_mhmoe.evaluation.documents import SplitScores, document_sizes, join, score_split, sum_by_document


def test_sums_of_runs():
    assert sum_by_document(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 3])).tolist() == [1.0, 9.0]


@pytest.mark.parametrize("sizes", [[1, 2], [4, 1], [4, 0]])
def test_sizes_must_cover_the_tokens(sizes):
    with pytest.raises(ValueError, match="4 tokens were scored"):
        sum_by_document(np.zeros(4), np.array(sizes))


class Blocks:
    """The tokens 4, 5, 6, ... cut into blocks of 3, as a fairseq dataset shows its sizes."""

    def __init__(self, tokens):
        self.tokens = torch.split(tokens, 3)
        self.sizes = np.array([len(block) for block in self.tokens])

    def batch(self, indices):
        target = torch.nn.utils.rnn.pad_sequence([self.tokens[i] for i in indices], batch_first=True, padding_value=1)
        return {"id": torch.tensor(indices), "net_input": {"src_tokens": target}, "target": target}


class OneInTheTokenModel(torch.nn.Module):
    """Gives the target v the probability 1 / v, and statistics with 1 for each block."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, src_tokens):
        return src_tokens, {"moe_stats": [torch.full((4,), float(len(src_tokens)))]}

    def get_normalized_probs(self, output, log_probs, sample):
        return -torch.arange(1, 12).float().log().roll(1).expand(*output[0].shape, 11)


@pytest.mark.parametrize("order", [[[0, 1, 2]], [[2], [0], [1]], [[1, 2], [0]]])
def test_documents_across_blocks_by_hand(order):
    dataset = Blocks(torch.tensor([4, 5, 6, 7, 8, 9, 10]))
    scores = score_split(OneInTheTokenModel(), dataset, [dataset.batch(b) for b in order], np.array([2, 4, 1]))
    assert scores.nll == pytest.approx([math.log(4 * 5), math.log(6 * 7 * 8 * 9), math.log(10)])
    assert scores.tokens.tolist() == [2, 4, 1]
    assert [stats.tolist() for stats in scores.layer_stats] == [[3.0] * 4]


def test_a_missing_block_is_an_error():
    dataset = Blocks(torch.tensor([4, 5, 6, 7]))
    with pytest.raises(ValueError, match="1 of 4 tokens have no score"):
        score_split(OneInTheTokenModel(), dataset, [dataset.batch([0])], np.array([4]))


def test_scores_of_sources_are_joined_in_their_order():
    one = SplitScores(np.array([1.0, 2.0]), np.array([1, 2]), [torch.tensor([1.0, 2.0])])
    other = SplitScores(np.array([3.0]), np.array([3]), [torch.tensor([10.0, 20.0])])
    both = join([one, other])
    assert (both.nll.tolist(), both.tokens.tolist()) == ([1, 2, 3], [1, 2, 3])
    assert [stats.tolist() for stats in both.layer_stats] == [[11, 22]]


def test_a_dataset_that_knows_its_documents_is_asked(tmp_path):
    blocks = [SimpleNamespace(document_sizes=lambda: np.array([3, 4])), SimpleNamespace(document_sizes=lambda: [5])]
    assert document_sizes(SimpleNamespace(blocks=blocks), tmp_path, "valid", None).tolist() == [3, 4, 5]


def test_a_split_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="no split 'valid' in .*expected valid.bin and valid.idx"):
        document_sizes(SimpleNamespace(), tmp_path, "valid", None)
