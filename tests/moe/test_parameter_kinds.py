"""Which parameters count as norms, biases and routers."""

import pytest
from torch import nn

from fairseq_mhmoe.moe import MoEConfig, MoELayer
from fairseq_mhmoe.moe.parameter_kinds import parameters_of_kind, parse_kinds


def names(model, kind):
    wanted = parameters_of_kind(model, kind)
    return {name for name, parameter in model.named_parameters() if parameter in wanted}


def test_of_plain_layers():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.RMSNorm(4), nn.Embedding(3, 4))
    assert names(model, "norm") == {"1.weight", "1.bias", "2.weight"}
    assert names(model, "bias") == {"0.bias", "1.bias"}
    assert names(model, "router") == set()


@pytest.mark.parametrize("router", ["softmax", "xmoe", "torchscale-cosine"])
def test_of_an_moe_layer(router):
    config = MoEConfig(d_model=8, num_experts=4, ffn_dim=6, heads=2, subln=True, router=router)
    layer = MoELayer(config)
    assert names(layer, "norm") == {"experts.norm_weight", "experts.norm_bias"}
    biases = {"experts.b_in", "experts.b_out", "experts.norm_bias", "head.0.bias", "merge.0.bias"}
    assert names(layer, "bias") == biases
    assert (
        names(layer, "router") == {name for name, _ in layer.named_parameters() if name.startswith("router.")} != set()
    )


@pytest.mark.parametrize(
    ("text", "kinds"), [("", set()), ("norm", {"norm"}), ("norm, bias,router", {"norm", "bias", "router"})]
)
def test_lists(text, kinds):
    assert parse_kinds(text) == kinds


def test_a_word_that_is_no_kind():
    with pytest.raises(ValueError, match="'biases' is no kind of parameters; expected .*'norm', 'bias', 'router'"):
        parse_kinds("norm,biases")
