"""Impossible layers are refused with a message that names the value and the remedy."""

import pytest

from fairseq_mhmoe.moe import MoEConfig

GOOD = dict(d_model=8, num_experts=4, ffn_dim=8)


@pytest.mark.parametrize(
    "fields, named",
    [
        (dict(d_model=0), "d_model=0"),
        (dict(num_experts=0), "num_experts=0"),
        (dict(ffn_dim=-1), "ffn_dim=-1"),
        (dict(top_k=0), "top_k=0"),
        (dict(top_k=5), "top_k=5.*number of experts, 4"),
        (dict(heads=0), "heads=0"),
        (dict(heads=3), "heads=3.*divisor of the model width 8"),
        (dict(head_layers=4), "head_layers=4"),
        (dict(merge_layers=-1), "merge_layers=-1"),
        (dict(activation="silu"), "activation='silu'.*swiglu"),
        (dict(router="hash"), "router='hash'.*softmax"),
        (dict(router_dim=0), "router_dim=0"),
        (dict(router_temperature=0.0), "router_temperature=0.0"),
        (dict(normalize_gates="always"), "normalize_gates='always'"),
        (dict(second_policy="maybe", top_k=2), "second_policy='maybe'"),
        (dict(second_policy="random"), "second_policy='random'.*top_k 1"),
        (dict(capacity_factor=-0.1), "capacity_factor=-0.1.*dropless"),
        (dict(eval_capacity_fraction=1.5), "eval_capacity_fraction=1.5"),
        (dict(padding="ignored"), "padding='ignored'"),
        (dict(activation_dropout=1.0), "activation_dropout=1.0"),
        (dict(shared_expert_dim=-1), "shared_expert_dim=-1"),
        (dict(input_bits=4), "input_bits=4.*8 .*or 32"),
        (dict(weight_bits=2), "weight_bits=2.*1 .*or 32"),
        (dict(backend="cublas"), "backend='cublas'.*loop"),
    ],
)
def test_impossible_values_are_named(fields, named):
    with pytest.raises(ValueError, match=named):
        MoEConfig(**{**GOOD, **fields})


@pytest.mark.parametrize(
    "compat, fields, named",
    [
        ("tutel", {}, "compat='tutel'.*published"),
        ("published", dict(capacity_factor=2.0), "capacity_factor=2.0.*1.0.*compat 'published'"),
        ("published", dict(residual=True), "residual=True"),
        ("published", dict(second_policy="random", top_k=2), "second_policy='random'"),
        ("torchscale", dict(top_k=3), "top_k=3.*1 or 2"),
        ("torchscale", dict(top_k=2, capacity_factor=2.0), "capacity_factor=2.0"),
        ("torchscale", dict(padding="routed"), "padding='routed'.*'counted'"),
    ],
)
def test_contradictions_of_a_compat_mode_are_named(compat, fields, named):
    with pytest.raises(ValueError, match=named):
        MoEConfig.with_compat(compat, **{**GOOD, **fields})


def test_published_rules():
    config = MoEConfig.with_compat("published", **GOOD, router="xmoe")
    assert (config.capacity_factor, config.padding, config.router) == (1.0, "routed", "torchscale-cosine")
    assert config.projected_dim == 16


def test_torchscale_rules():
    top1 = MoEConfig.with_compat("torchscale", **GOOD, capacity_factor=6.0)
    assert (top1.capacity_factor, top1.padding, top1.sample_in_eval) == (6.0, "counted", True)
    assert MoEConfig.with_compat("torchscale", **GOOD).capacity_factor == 1.0
    assert MoEConfig.with_compat("torchscale", **GOOD, top_k=2).normalize_gates == "after"
    assert MoEConfig.with_compat("torchscale", **GOOD, top_k=2, normalize_gates="before").normalize_gates == "before"


def test_no_compat_changes_nothing():
    assert MoEConfig.with_compat("none", **GOOD) == MoEConfig(**GOOD)


def test_head_and_merge_layers_come_with_heads():
    assert MoEConfig(**GOOD).num_head_layers == 0 and MoEConfig(**GOOD, heads=2).num_head_layers == 1
    assert MoEConfig(**GOOD, merge_layers=1).num_merge_layers == 1
    assert MoEConfig(**GOOD, heads=2, merge_layers=0).num_merge_layers == 0
