"""Comparisons are fair: equal parameters or FLOPs within what whole numbers allow, one body, one training."""

import pytest

from fairseq_mhmoe.cli.reproduce_comparisons import PAPERS, PARITIES, PLANS, make_plan
from fairseq_mhmoe.cli.reproduce_models import build
from fairseq_mhmoe.cli.reproduce_settings import SCALES, find_scale

VOCABULARY = 4096
PARAMS, FLOPS = "params_total", "flops_per_token"
# (corpus, full) -> the same models in both corpora, so English stands for both
CASES = [(name, parity, full) for name in PLANS for parity in PARITIES for full in (False, True) if name != "v2"]
CASES += [("v2", "flops", False), ("v2", "flops", True)]


def models(comparison, parity="params", full=False, **changes):
    scale = find_scale("english", full, comparison, changes)
    plan = make_plan(comparison, scale, "english", parity)
    return plan, {model.name: model for model in build(plan.specs, scale, VOCABULARY)}


@pytest.mark.parametrize("comparison, parity, full", CASES)
def test_costs_are_equal_within_tolerance(comparison, parity, full):
    plan, made = models(comparison, parity, full)
    matched = [spec for spec in plan.specs if spec.equal_to]
    assert matched
    for spec in matched:
        deviation = made[spec.name].deviation
        if spec.parity == "params":  # a width is a multiple of 8
            assert abs(deviation[PARAMS]) < 0.0075, spec
        else:  # and a number of experts is whole
            assert abs(deviation[FLOPS]) < 0.015 and abs(deviation[PARAMS]) < 0.03, spec


def test_deviation_is_that_of_the_whole_model():
    _, made = models("table1")
    mhmoe, xmoe = made["mhmoe-8"], made["xmoe-8"]
    assert mhmoe.deviation[FLOPS] == pytest.approx(mhmoe.cost.flops_per_token / xmoe.cost.flops_per_token - 1)
    assert mhmoe.deviation[FLOPS] > 0.02  # v1: several heads, dearer experts


def test_v1_keeps_the_number_of_experts_and_v2_solves_it():
    assert models("table1")[1]["mhmoe-8"].shape.moe.num_experts == 8
    assert models("table1", "flops")[1]["mhmoe-8"].shape.moe.num_experts > 12


@pytest.mark.parametrize("comparison", PLANS)
def test_bodies_are_equal(comparison):
    made = models(comparison)[1].values()
    moe = ("moe", "moe_freq", "ffn_dim")
    bodies = {tuple((k, v) for k, v in vars(model.shape).items() if k not in moe) for model in made}
    assert len(bodies) == 1


def test_models_of_v2_are_those_of_its_table():
    made = models("v2", "flops")[1]
    found = {n: m.shape.moe and (m.shape.moe.top_k, m.shape.moe.heads, m.shape.moe.router) for n, m in made.items()}
    assert found == {
        "dense": None,
        "smoe": (1, 1, "softmax"),
        "finegrained": (2, 1, "softmax"),
        "mhmoe-2heads": (2, 2, "softmax"),
        "mhmoe-3heads": (3, 3, "softmax"),
    }
    fine, smoe = made["finegrained"].shape.moe, made["smoe"].shape.moe
    assert (fine.num_experts, 2 * fine.ffn_dim) == (2 * smoe.num_experts, smoe.ffn_dim)


def test_components_are_switched_one_by_one():
    made = models("components")[1]
    found = {
        name: (model.shape.moe.heads, model.shape.moe.num_head_layers, model.shape.moe.num_merge_layers)
        for name, model in made.items()
        if model.shape.moe
    }
    heads = made["mhmoe-8"].shape.moe.heads
    assert heads > 1 and found == {
        "dense-linear": (1, 1, 1),
        "xmoe-8": (1, 0, 0),
        "xmoe-linear": (1, 1, 1),
        "mhmoe-split": (heads, 0, 0),
        "mhmoe-8": (heads, 1, 1),
    }
    assert made["dense-linear"].shape.moe.num_experts == 1


def test_heads_that_do_not_divide_the_width_are_left_out():
    made = models("heads", width=96, ablation_heads=(1, 2, 5, 6))[1]
    assert list(made) == ["xmoe-8", "mhmoe-h1", "mhmoe-h2", "mhmoe-h6"]


def test_depths_are_those_of_head_and_merge():
    made = models("depth")[1]
    for layers in range(4):
        moe = made[f"mhmoe-n{layers}"].shape.moe
        assert moe.num_head_layers == moe.num_merge_layers == layers


def test_gates_are_normalised_where_there_are_several():
    made = models("v2", "flops")[1]
    option = "--moe-normalize-gate-prob-before-dropping"
    assert [name for name, model in made.items() if option in model.words] == [
        "finegrained",
        "mhmoe-2heads",
        "mhmoe-3heads",
    ]


@pytest.mark.parametrize("comparison, corpus", PAPERS)
def test_every_figure_of_the_paper_belongs_to_a_model_that_can_be_made(comparison, corpus):
    scale = find_scale(
        corpus, False, comparison, {"experts": (8, 32), "width": 192, "ablation_heads": (2, 4, 6, 8, 12)}
    )
    specs = make_plan(comparison, scale, corpus).specs
    assert {spec.name: spec.paper for spec in specs if spec.paper} == PAPERS[comparison, corpus]


@pytest.mark.parametrize("comparison", PLANS)
def test_pairs_are_of_models_of_the_plan(comparison):
    plan, made = models(comparison)
    assert {name for pair in plan.pairs for name in pair} == set(made)


def test_some_models_only():
    plan = models("table1", experts=(8, 32))[0]
    kept = plan.kept(["xmoe", "mhmoe-8"])
    assert [spec.name for spec in kept.specs] == ["xmoe-8", "mhmoe-8", "xmoe-32"]
    assert kept.pairs == [("mhmoe-8", "xmoe-8")]
    with pytest.raises(ValueError, match="--models smoe: expected some of dense, xmoe-8"):
        plan.kept(["smoe"])


def test_a_model_that_can_not_be_is_named():
    with pytest.raises(ValueError, match="MH-MoE, 3 heads: .*mhmoe.heads"):
        models("v2", "flops", width=64, attention_heads=2)


def test_options_of_a_family_reach_its_models_only(monkeypatch):
    key = ("english", "default")
    scale = SCALES[key]
    changed = type(scale)(**{**vars(scale), "options": {"mhmoe": {"mhmoe-residual": True}}})
    monkeypatch.setitem(SCALES, key, changed)
    assert [name for name, model in models("table1")[1].items() if "--mhmoe-residual" in model.words] == ["mhmoe-8"]
