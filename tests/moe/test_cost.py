"""Parameters and FLOPs of a layer against counted ones; whole models are counted in tests/models."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fairseq_mhmoe.moe import MoEConfig, MoELayer
from fairseq_mhmoe.moe.cost import LanguageModelShape, model_cost, moe_layer_cost

CONFIGS = [
    MoEConfig(16, 4, 8, backend="loop"),
    MoEConfig(16, 4, 8, top_k=2, heads=2, activation="swiglu", bias=False, backend="loop"),
    MoEConfig(16, 4, 8, top_k=3, heads=4, subln=True, router="xmoe", backend="loop"),
    MoEConfig(16, 4, 8, subln=True, rms_norm=True, router="torchscale-cosine", backend="loop"),
    MoEConfig(16, 4, 8, heads=2, head_layers=0, merge_layers=3, shared_expert_dim=6, backend="loop"),
    MoEConfig(16, 4, 8, head_layers=1, merge_layers=1, activation="relu", backend="loop"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_parameters_equal_the_counted_ones(config):
    layer, cost = MoELayer(config), moe_layer_cost(config)
    experts = sum(p.numel() for p in layer.experts.parameters())
    total = sum(p.numel() for p in layer.parameters())
    assert (cost.params_expert, cost.params_total) == (experts, total)
    assert cost.params_non_expert == total - experts
    chosen = min(config.top_k * config.heads, config.num_experts)
    assert cost.params_activated == total - experts + experts * chosen // config.num_experts


@pytest.mark.parametrize("config", CONFIGS)
def test_flops_equal_the_counted_ones(config):
    layer, tokens = MoELayer(config), 6
    x = torch.randn(1, tokens, 16, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        y, l_aux, _, _ = layer(x)
        (y.sum() + l_aux).backward()
    assert counter.get_total_flops() == tokens * moe_layer_cost(config).flops_per_token


def dense(**changes) -> LanguageModelShape:
    """Table 11 of v1: 768 x 12, FFN 3072, biases, SubLN, tied embedding of about 100.3k words."""
    fields = dict(vocab_size=100288, layers=12, d_model=768, attention_heads=12, kv_heads=12, ffn_dim=3072,
                  activation="gelu", bias=True, rms_norm=False, subln=True, tied=True, learned_positions=0,
                  layernorm_embedding=False, tokens_per_sample=2048, moe_freq=0)
    return LanguageModelShape(**{**fields, **changes})


def test_dense_row_of_table_11():
    assert model_cost(dense()).params_total / 1e6 == pytest.approx(162, abs=0.5)


@pytest.mark.parametrize("experts, expert_millions", [(8, 227), (32, 908), (256, 7263)])
def test_xmoe_rows_of_table_11(experts, expert_millions):
    moe = MoEConfig(768, experts, 3072, top_k=2, bias=True, subln=True, router="xmoe")
    cost = model_cost(dense(moe_freq=2, moe=moe))
    assert cost.params_expert / 1e6 == pytest.approx(expert_millions, abs=0.5)
    assert cost.params_non_expert / 1e6 == pytest.approx(134, abs=0.5)


def test_mhmoe_row_of_table_11_with_beta_63_64():
    moe = MoEConfig(768, 32, 12096, top_k=2, heads=4, bias=True, subln=True, router="xmoe")
    cost = model_cost(dense(moe_freq=2, moe=moe))
    assert cost.params_expert / 1e6 == pytest.approx(898, rel=0.002)
    assert cost.params_non_expert / 1e6 == pytest.approx(141, abs=0.5)


def test_v2_configurations_cost_as_much_as_sparse_moe():
    """MH-MoE v2, section 3: 8 x 2048 top-1 against 40 x 768 top-2 in 2 heads and 96 x 512 top-3 in 3 heads."""
    def cost(**fields):
        return moe_layer_cost(MoEConfig(768, activation="swiglu", bias=False, **fields))

    smoe = cost(num_experts=8, ffn_dim=2048)
    two_heads = cost(num_experts=40, ffn_dim=768, top_k=2, heads=2)
    three_heads = cost(num_experts=96, ffn_dim=512, top_k=3, heads=3)
    for mhmoe in (two_heads, three_heads):
        assert mhmoe.flops_per_token == pytest.approx(smoe.flops_per_token, rel=0.03)
        assert mhmoe.params_total == pytest.approx(smoe.params_total, rel=0.04)
