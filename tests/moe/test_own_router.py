"""Routers that a user registers: their names, arguments, precision, cost, and the layer around them."""

import pytest
import torch
from torch import nn

from fairseq_mhmoe.moe import MoEConfig, MoELayer, Router, register_router, router_base
from fairseq_mhmoe.moe.cost import moe_layer_cost
from fairseq_mhmoe.moe.parameter_kinds import parameters_of_kind


class Scaled(Router):
    """x W^T, times a number that is given."""

    def __init__(self, config, scale=1.0):
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.d_sub))
        self.bias = nn.Parameter(torch.empty(config.num_experts))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def logits(self, x):
        return (x.to(self.weight.dtype) @ self.weight.t() + self.bias) * self.scale


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(router_base, "_own", {})
    return register_router("scaled")(Scaled)


def config(**changes):
    return MoEConfig(**{"d_model": 8, "num_experts": 4, "ffn_dim": 6, "heads": 2, "router": "scaled", **changes})


def test_a_layer_trains_a_registered_router():
    layer = MoELayer(config(top_k=2))
    y, l_aux, z_loss, statistics = layer(torch.randn(3, 5, 8))
    (y.square().sum() + l_aux + z_loss).backward()
    assert isinstance(layer.router, Scaled) and statistics[:4].sum() == 3 * 5 * 2 * 2
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.router.parameters())
    assert {name for name in layer.state_dict() if "router" in name} == {"router.weight", "router.bias"}


def test_reset_parameters_of_the_layer_is_that_of_the_router():
    layer = MoELayer(config())
    with torch.no_grad():
        layer.router.bias.fill_(7)
    layer.reset_parameters()
    assert layer.router.bias.abs().sum() == 0


def test_arguments_come_from_the_json_of_the_configuration():
    assert MoELayer(config(router_args='{"scale": 3}')).router.scale == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_stays_in_float32_when_the_model_is_cast(dtype):
    layer = MoELayer(config()).to(dtype)
    assert layer.head[0].weight.dtype == dtype and layer.router.weight.dtype == torch.float32
    assert layer.router(torch.randn(6, 4, dtype=dtype)).dtype == torch.float32


def test_its_parameters_are_those_of_a_router():
    layer = MoELayer(config())
    assert parameters_of_kind(layer, "router") == set(layer.router.parameters())


def test_the_cost_counts_its_parameters_and_its_matrices():
    d, experts = 4, 4
    own, softmax = moe_layer_cost(config()), moe_layer_cost(config(router="softmax"))
    assert own.params_total - softmax.params_total == experts  # the bias
    assert own.flops_per_token == softmax.flops_per_token
    assert own.params_total == sum(parameter.numel() for parameter in MoELayer(config()).parameters())
    assert MoELayer(config()).router.macs() == d * experts


def test_a_router_may_say_what_it_computes(registered, monkeypatch):
    before = moe_layer_cost(config(top_k=1)).flops_per_token
    monkeypatch.setattr(registered, "macs", lambda self: 16 + 100, raising=False)
    changed = moe_layer_cost(config(top_k=1, balance_scope="global"))  # another configuration: costs are remembered
    assert changed.flops_per_token - before == 6 * 2 * 100  # 2 sub-tokens, 6 FLOPs for each multiply-add


def test_counting_draws_no_random_number():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    moe_layer_cost(config(ffn_dim=10))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(router="scald"), "router='scald'; expected one of softmax, xmoe, torchscale-cosine, scaled"),
        (dict(router_args="scale=3"), "expected a JSON object"),
        (dict(router_args="[3]"), "expected a JSON object"),
        (dict(router_args='{"size": 3}'), r"what router scaled takes beside the configuration, scale \(.*'size'"),
        (dict(router="softmax", router_args='{"scale": 3}'), "expected nothing, the softmax router takes no arguments"),
    ],
)
def test_a_name_or_an_argument_that_is_not_there_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)


@pytest.mark.parametrize("compat", ["published", "torchscale"])
def test_other_code_bases_do_not_know_it(compat):
    with pytest.raises(ValueError, match=f"router='scaled'; expected one that compat '{compat}' knows, softmax"):
        MoEConfig.with_compat(compat, d_model=8, num_experts=4, ffn_dim=6, router="scaled")


@pytest.mark.parametrize("name, holder", [("softmax", "fairseq_mhmoe"), ("scaled", __name__)])
def test_a_name_is_given_once(name, holder):
    with pytest.raises(ValueError, match=f"{holder} has a router of that name"):
        register_router(name)(type("Other", (Router,), {}))


def test_only_routers_are_registered():
    with pytest.raises(ValueError, match="no subclass of fairseq_mhmoe.moe.Router"):
        register_router("linear")(nn.Linear)


@pytest.mark.parametrize(
    "logits, found",
    [
        (lambda self, x: x.new_zeros(len(x), 3), r"\(6, 3\)"),
        (lambda self, x: x.new_zeros(1, 4), r"\(1, 4\)"),
        (lambda self, x: x.new_zeros(len(x), 4, dtype=torch.bfloat16), "bfloat16"),
    ],
    ids=["experts", "rows", "precision"],
)
def test_logits_of_another_form_are_refused(logits, found, monkeypatch):
    monkeypatch.setattr(Scaled, "logits", logits)
    with pytest.raises(ValueError, match=f"router Scaled: logits of shape .*{found}.*expected .*6, 4"):
        MoELayer(config()).router(torch.randn(6, 4))
