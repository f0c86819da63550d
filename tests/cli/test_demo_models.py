"""The comparison of the demonstration is fair: equal FLOPs and training, equal parameters of the sparse models."""

import pytest

from fairseq_mhmoe.cli.demo_models import demo_models, shape_of, training_words, words_of


@pytest.fixture(scope="module")
def models():
    return {model.name: model for model in demo_models(8000)}


@pytest.mark.parametrize("name", ["xmoe", "mhmoe"])
def test_training_flops_are_those_of_the_dense_model(models, name):
    assert models[name].cost.flops_per_token == pytest.approx(models["dense"].cost.flops_per_token, rel=0.01)


def test_sparse_models_have_equal_parameters(models):
    assert models["mhmoe"].cost.params_total == pytest.approx(models["xmoe"].cost.params_total, rel=0.02)
    assert models["xmoe"].cost.params_total > 1.3 * models["dense"].cost.params_total


def test_bodies_are_equal(models):
    bodies = [[word for word in model.words if "moe" not in word] for model in models.values()]
    widths = {tuple(body[body.index("--decoder-embed-dim") :]) for body in bodies}
    assert len(widths) == 1


def test_only_mhmoe_has_heads(models):
    assert [name for name, model in models.items() if "--mhmoe-heads-number" in model.words] == ["mhmoe"]


def test_cost_is_that_of_the_options():
    small = shape_of({"arch": "dense_lm_tiny", "decoder-layers": 2}, vocab_size=100)
    assert (small.layers, small.vocab_size, small.moe_layers) == (2, 100, 0)


def test_words_of_options():
    assert words_of({"lr": 0.1, "use-xmoe": True}) == ["--lr", "0.1", "--use-xmoe"]


def test_warm_up_is_shorter_than_a_short_training():
    words = training_words(updates=4)
    assert words[words.index("--warmup-updates") + 1] == "2"
