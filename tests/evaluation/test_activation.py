"""Experts in use, counted by hand. Statistics: load per expert, then sub-tokens, dropped, entropy."""

import torch

from fairseq_mhmoe.evaluation.activation import activated_experts


def stats(load, sub_tokens):
    return torch.tensor([*load, sub_tokens, 0, 0], dtype=torch.float32)


def test_dense_model_has_no_experts():
    assert activated_experts([], top_k=1, heads=1) is None


def test_without_heads_tokens_and_sub_tokens_are_the_same():
    # 100 tokens, top 1 of 4: threshold 1 / 8 = 12.5 selections in 100 tokens; experts 0 and 1 pass.
    found = activated_experts([stats([60, 13, 12, 15 - 3], 97)], top_k=1, heads=1)
    assert found.threshold == 0.125
    assert found.per_token == found.per_sub_token == 0.5


def test_heads_pass_the_threshold_more_easily_per_token():
    # 50 tokens = 100 sub-tokens, top 1 of 4, threshold 0.125.
    # Per sub-token 0.70 0.10 0.10 0.10: one passes. Per token 1.40 0.20 0.20 0.20: all pass.
    found = activated_experts([stats([70, 10, 10, 10], 100)], top_k=1, heads=2)
    assert found.per_sub_token == 0.25
    assert found.per_token == 1.0


def test_layers_are_averaged():
    even, collapsed = stats([50, 50], 100), stats([100, 0], 100)
    assert activated_experts([even, collapsed], top_k=1, heads=1).per_token == 0.75


def test_an_even_load_uses_every_expert():
    assert activated_experts([stats([40] * 5, 100)], top_k=2, heads=4).per_sub_token == 1.0
