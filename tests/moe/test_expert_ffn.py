"""The experts' autograd Function: gradients, back ends, recomputation, and what it keeps (S, K, N, d, F)."""

import pytest
import torch

from fairseq_mhmoe.moe import MoEConfig, MoELayer, expert_ffn, grouped
from fairseq_mhmoe.moe.bitlinear import Quantization
from fairseq_mhmoe.moe.dispatch import make_plan
from fairseq_mhmoe.moe.expert_ffn import Source
from fairseq_mhmoe.moe.experts import StackedExperts
from tests.torch_features import GROUPED_MM, available

D, F = 8, 12
BITNET = Quantization(inputs=True, weights=True)
BITS = dict(input_bits=8, weight_bits=1)
WAYS = [(name, recompute) for recompute in (False, True) for name in available("loop", "grouped_mm", "bmm")]
CHOICES = torch.tensor([[0, 3], [2, 0], [4, 2], [0, 2], [4, 4], [3, 0]])  # N = 4; 4: no expert; expert 1 gets none


def run(backend, recompute, most=None, choices=CHOICES, **rules):
    torch.manual_seed(0)
    experts = StackedExperts(4, D, F, backend=backend, recompute=recompute, **rules)
    if experts.norm_weight is not None:
        torch.nn.init.normal_(experts.norm_weight)
    plan = make_plan(choices, 4, complete=bool((choices < 4).all()))
    x = torch.randn(choices.shape[0], D, requires_grad=True)
    y = experts(x, plan.counts, plan.complete, source=Source(plan.order, plan.inverse), most=most)
    rows = int(plan.counts.sum())
    (y[:rows] * torch.randn(rows, D)).sum().backward()
    return {"y": y[:rows].detach(), "x": x.grad, **{n: p.grad for n, p in experts.named_parameters()}}


@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu"])
@pytest.mark.parametrize(
    "rules",
    [
        dict(bias=False),
        dict(bias=True),
        dict(bias=True, subln=True),
        dict(bias=False, subln=True, rms_norm=True),
        dict(bias=True, quantization=BITNET),
        dict(bias=False, subln=True, quantization=BITNET),
    ],
)
def test_back_ends_and_recomputation_agree(activation, rules):
    expected = run("loop", False, activation=activation, **rules)
    for backend, recompute in WAYS[1:]:
        for name, value in run(backend, recompute, activation=activation, **rules).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=f"{backend} {recompute} {name}")


@pytest.mark.parametrize("rules", [dict(bias=True), dict(bias=False, subln=True), dict(quantization=BITNET)])
@pytest.mark.parametrize("recompute", [False, True])
def test_halves_apart_or_side_by_side_make_no_difference(rules, recompute, monkeypatch):
    expected = run("loop", recompute, activation="swiglu", **rules)
    monkeypatch.setattr(grouped, "_ROWS_FOR_SEPARATE_HALVES", 1)
    shapes = []
    activate = expert_ffn.activate
    monkeypatch.setattr(expert_ffn, "activate", lambda pre, *rest: shapes.append(pre.dim()) or activate(pre, *rest))
    apart = run("loop", recompute, activation="swiglu", **rules)
    assert set(shapes) == {3}
    for name, value in apart.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_a_known_bound_changes_nothing():
    expected = run("bmm", False, activation="gelu")
    for name, value in run("bmm", False, most=5, activation="gelu").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("tokens", [0, 1, 5])
@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("backend, recompute", WAYS[1:])
def test_layers_with_few_tokens_and_little_room_agree(tokens, factor, backend, recompute):
    """A factor of 0.4 leaves no room at all; the last token of each row is a pad."""
    torch.manual_seed(0)
    x = torch.randn(2, tokens, 16)
    pads = torch.zeros(2, tokens, dtype=torch.bool)
    pads[:, -1:] = True
    seen = []
    for ways in ({}, dict(backend=backend, recompute=recompute)):
        torch.manual_seed(1)
        rules = dict(top_k=2, heads=2, activation="swiglu", capacity_factor=factor)
        layer = MoELayer(MoEConfig(16, 8, 24, **rules, **{"backend": "loop", **ways}))
        source = x.clone().requires_grad_()
        y = layer(source, pads)[0]
        y.square().sum().backward()
        seen.append((y.detach(), source.grad, layer.experts.w_in.grad, layer.router.weight.grad))
    for ours, expected in zip(*reversed(seen)):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu"])
@pytest.mark.parametrize("subln", [False, True])
@pytest.mark.parametrize("backend, recompute, apart", [("loop", 0, 0), ("loop", 1, 0), ("loop", 0, 1), ("bmm", 0, 0)])
def test_gradients_are_those_of_finite_differences(activation, subln, backend, recompute, apart, monkeypatch):
    torch.manual_seed(3)
    monkeypatch.setattr(grouped, "_ROWS_FOR_SEPARATE_HALVES", 1 if apart else 1000)
    experts = StackedExperts(3, 2, 3, activation, True, subln, backend=backend, recompute=bool(recompute)).double()
    plan = make_plan(torch.tensor([[0, 2], [2, 3]]), 3, complete=False)
    names, parameters = zip(*experts.named_parameters())

    def output(x, *values):
        y = torch.func.functional_call(
            experts,
            dict(zip(names, values)),
            (x, plan.counts, False),
            dict(source=Source(plan.order, plan.inverse)),
        )
        return y[:3]

    x = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, (x, *parameters))


@pytest.mark.parametrize("backend, recompute", WAYS)
def test_dropout_masks_are_the_same_in_both_passes(backend, recompute):
    """With identity-like gradients: the gradient of w_out is zero for hidden columns that were dropped in all rows."""
    torch.manual_seed(0)
    experts = StackedExperts(1, D, 64, "relu", bias=False, dropout=0.5, backend=backend, recompute=recompute)
    with torch.no_grad():
        experts.w_in.abs_()
    x = torch.rand(1, D) + 1  # one row, every hidden number positive
    y = experts(x, torch.tensor([1]))
    y.sum().backward()
    kept = (experts.w_out.grad[0] != 0).all(0)
    assert 16 < kept.sum() < 48
    hidden = (x @ experts.w_in[0].t()) * kept / 0.5
    torch.testing.assert_close(y, hidden @ experts.w_out[0].t())


@pytest.mark.parametrize("backend, recompute", WAYS)
def test_frozen_weights_get_no_gradient(backend, recompute):
    experts = StackedExperts(2, D, F, "swiglu", bias=False, backend=backend, recompute=recompute)
    experts.w_in.requires_grad_(False)
    x = torch.randn(4, D, requires_grad=True)
    experts(x, torch.tensor([3, 1])).sum().backward()
    assert experts.w_in.grad is None and experts.w_out.grad is not None and x.grad.abs().sum() > 0


def saved_bytes(layer, x):
    """Bytes that one forward pass keeps, each storage once, without parameters and the layer's input."""
    outside = {t.untyped_storage().data_ptr() for t in (x, *layer.parameters())}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in outside:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor: no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x)
    return sum(size for size, _ in kept.values())


def bound(config, tokens, itemsize):
    """x + gathered rows + pre-activation + activation + expert outputs."""
    d, rows = config.d_sub, tokens * config.heads * config.top_k
    inner = config.ffn_dim * (2 if config.activation == "swiglu" else 1)
    return itemsize * (tokens * config.d_model + rows * (d + inner + config.ffn_dim + d))


@pytest.mark.parametrize("backend", ["loop", GROUPED_MM])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "sizes",  # D, N, F, K, H: the papers' shapes, a third as wide
    [
        dict(d_model=256, num_experts=8, ffn_dim=680, activation="swiglu"),
        dict(d_model=256, num_experts=40, ffn_dim=256, top_k=2, heads=2, activation="swiglu"),
        dict(d_model=256, num_experts=96, ffn_dim=176, top_k=3, heads=4, activation="swiglu"),
        dict(d_model=256, num_experts=8, ffn_dim=4032, top_k=2, heads=4, activation="gelu"),
    ],
    ids=["smoe", "two heads", "many heads", "v1"],
)
def test_little_is_kept_for_the_backward_pass(sizes, dtype, backend):
    tokens = 64
    x = torch.randn(1, tokens, 256, dtype=dtype, requires_grad=True)
    plain, recomputed = (
        saved_bytes(MoELayer(MoEConfig(bias=False, backend=backend, recompute=r, **sizes)).to(dtype), x)
        for r in (False, True)
    )
    limit = bound(MoEConfig(bias=False, **sizes), tokens, dtype.itemsize)
    assert plain <= limit, f"{plain / limit:.2f} of the bound"
    assert recomputed <= 0.4 * limit, f"{recomputed / limit:.2f} of the bound"


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_nothing_quantised_is_kept(mixed, recompute):
    """In mixed precision less: the converted weights are not kept either."""
    rules = dict(d_model=64, num_experts=4, ffn_dim=96, activation="swiglu", bias=False, recompute=recompute)
    x = torch.randn(1, 64, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        plain, quantized = (saved_bytes(MoELayer(MoEConfig(**rules, **bits)), x) for bits in ({}, BITS))
    weights = 4 * 3 * 64 * 96 * 2
    assert quantized == plain - (weights if mixed else 0)
