"""The command that scores by document: what it refuses, and its figures from scores that are known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fairseq_mhmoe.cli.evaluate import evaluate, report
from fairseq_mhmoe.evaluation.documents import SplitScores

MODEL = SimpleNamespace(moe_top_k=1, mhmoe_heads_number=2)


def scores(*layer_stats):
    """Two documents of 1 and 3 tokens, each token with probability 1 / 8."""
    nll = math.log(8) * np.array([1.0, 3.0])
    return SplitScores(nll, np.array([1, 3]), [torch.tensor(stats) for stats in layer_stats])


def test_figures_by_hand():
    found = report(scores(), 8, MODEL)
    assert (found["documents"], found["tokens"]) == (2, 4)
    assert found["perplexity"] == pytest.approx(8)
    assert found["perplexity_95"] == pytest.approx([8, 8])
    assert found["bits_per_token"] == pytest.approx(3)
    assert found["bits_per_byte"] == pytest.approx(3 * 4 / 8)
    assert found["activated_experts"] is None


def test_experts_in_use_per_token_and_per_sub_token():
    # 8 sub-tokens of 4 tokens, 2 experts: frequencies 7/8 and 1/8 per sub-token, twice that per token; threshold 1/4.
    found = report(scores([7.0, 1.0, 8.0, 0.0, 0.0]), 8, MODEL)["activated_experts"]
    assert found == {"threshold": 0.25, "per_token": 0.5, "per_sub_token": 0.5}
    found = report(scores([6.0, 2.0, 8.0, 0.0, 0.0]), 8, MODEL)["activated_experts"]
    assert found == {"threshold": 0.25, "per_token": 1.0, "per_sub_token": 0.5}


def test_without_counts_of_bytes_there_are_no_bits_per_byte():
    assert report(scores(), None, MODEL)["bits_per_byte"] is None


def test_a_part_is_reported_without_its_documents():
    whole, part = report(scores(), 8, MODEL), report(scores(), 8, MODEL, documents=False)
    assert part == {key: value for key, value in whole.items() if not key.startswith("document_")}
    assert whole["document_tokens"] == [1, 3]


def test_overlapping_blocks_are_refused():
    with pytest.raises(ValueError, match="--context-window 8"):
        evaluate(SimpleNamespace(eval_lm=SimpleNamespace(context_window=8)))
