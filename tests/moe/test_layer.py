"""The whole layer against a dense reference, and its invariances (B, T, D, H, N, K as in the layer)."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.moe import MoEConfig, MoELayer
from fairseq_mhmoe.moe.layer import merge_heads, project, split_heads
from fairseq_mhmoe.moe.selection import select_experts
from fairseq_mhmoe.moe.stats import unpack
from tests.torch_features import needs_grouped_mm

from .reference import int8_rows, run_experts, ternary


def build(seed=0, **fields) -> MoELayer:
    torch.manual_seed(seed)
    return MoELayer(MoEConfig(**{"d_model": 8, "num_experts": 4, "ffn_dim": 8, **fields})).double()


@st.composite
def layers(draw):
    heads, d = draw(st.sampled_from([1, 2, 3, 8])), draw(st.sampled_from([1, 2, 4]))
    num_experts = draw(st.integers(1, 6))
    top_k = draw(st.integers(1, num_experts))
    return dict(
        d_model=heads * d,
        heads=heads,
        num_experts=num_experts,
        top_k=top_k,
        ffn_dim=draw(st.sampled_from([1, 4])),
        activation=draw(st.sampled_from(["relu", "gelu", "swiglu"])),
        bias=draw(st.booleans()),
        router=draw(st.sampled_from(["softmax", "xmoe", "torchscale-cosine"])),
        normalize_gates=draw(st.sampled_from(["none", "before", "after"])),
        capacity_factor=draw(st.sampled_from([0.0, 0.5, 1.0, 1.25])),
        batch_prioritized=draw(st.booleans()),
        padding=draw(st.sampled_from(["masked", "routed", "counted"])),
        residual=draw(st.booleans()),
        shared_expert_dim=draw(st.sampled_from([0, 3])),
        head_layers=draw(st.sampled_from([None, 0, 1, 2, 3])),
        merge_layers=draw(st.sampled_from([None, 0, 1, 2, 3])),
    )


@given(layers(), st.integers(0, 3), st.integers(1, 5), st.integers(0, 1000))
def test_equals_dense_reference(fields, batch, length, seed):
    layer = build(seed, **fields)
    config = layer.config
    x = torch.randn(batch, length, config.d_model, dtype=torch.float64)
    pads = torch.rand(batch, length) < 0.3
    y, l_aux, z_loss, stats = layer(x, pads)

    sub = split_heads(project(x, layer.head), config.heads)
    valid = None if config.padding == "routed" else ~pads.reshape(-1, 1).expand(-1, config.heads).reshape(-1)
    selection = select_experts(layer.router(sub), config, True, valid)
    out = run_experts(layer, sub, selection) + (sub if config.residual else 0)
    expected = project(merge_heads(out, x.shape), layer.merge)
    if config.shared_expert_dim:
        shared = MoELayer(config).double()
        shared.experts = layer.shared
        everything = torch.zeros(batch * length, 1, dtype=torch.int64)
        one = selection._replace(experts=everything, gates=torch.ones_like(everything, dtype=torch.float64))
        object.__setattr__(shared, "config", MoEConfig(config.d_model, 1, config.shared_expert_dim))
        expected = expected + run_experts(shared, x.reshape(-1, config.d_model), one).view_as(x)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    assert l_aux.isfinite() and z_loss.isfinite()

    read = unpack(stats)
    real = batch * length * config.heads if valid is None else int(valid.sum())
    assert read.sub_tokens == real
    assert read.load.sum() == real * config.top_k
    kept = (selection.experts < config.num_experts).sum()
    assert read.dropped == real * config.top_k - int(kept)


@given(st.permutations(range(6)), st.sampled_from([1, 2, 4]))
def test_permuting_tokens_permutes_the_output(order, heads):
    layer = build(heads=heads, top_k=2)
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    y, l_aux, _, _ = layer(x)
    permuted, permuted_l_aux, _, _ = layer(x[:, order])
    torch.testing.assert_close(permuted, y[:, order])
    torch.testing.assert_close(permuted_l_aux, l_aux)


@pytest.mark.parametrize("router", ["softmax", "xmoe", "torchscale-cosine"])
@pytest.mark.parametrize("capacity", [0.0, 1.0])
def test_pads_change_nothing(router, capacity):
    layer = build(heads=2, top_k=2, router=router, capacity_factor=capacity)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    pads = torch.zeros(2, 8, dtype=torch.bool)
    pads[:, 5:] = True
    padded = torch.cat([x, torch.randn(2, 3, 8, dtype=torch.float64)], 1).requires_grad_()
    plain = x.clone().requires_grad_()
    y, *rest = layer(plain)
    (y.sum() + rest[0] + rest[1]).backward()
    grads = [p.grad.clone() for p in layer.experts.parameters()]
    layer.zero_grad()
    y_padded, *rest_padded = layer(padded, pads)
    (y_padded[:, :5].sum() + rest_padded[0] + rest_padded[1]).backward()
    torch.testing.assert_close(y_padded[:, :5], y)
    for ours, theirs in zip(rest_padded, rest):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(padded.grad[:, :5], plain.grad)
    assert padded.grad[:, 5:].abs().max() == 0
    for ours, theirs in zip((p.grad for p in layer.experts.parameters()), grads):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
@pytest.mark.parametrize("backend", ["loop", "auto"])
def test_zero_tokens_give_zero_gradients(shape, backend):
    layer = build(heads=2, top_k=2, backend=backend).float()
    y, l_aux, z_loss, stats = layer(torch.randn(*shape, 8))
    (y.sum() + l_aux + z_loss).backward()
    assert y.shape == (*shape, 8) and l_aux.item() == 0 and stats.sum().item() == 0
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() == 0, name


@pytest.mark.parametrize("backend", ["loop", "auto"])
def test_only_pads(backend):
    layer = build(heads=2, top_k=2, backend=backend).float()
    x = torch.randn(2, 3, 8, requires_grad=True)
    y, l_aux, _, stats = layer(x, torch.ones(2, 3, dtype=torch.bool))
    (y.sum() + l_aux).backward()
    assert y.isfinite().all() and x.grad.isfinite().all()
    assert unpack(stats).load.sum() == 0 and l_aux.item() == 0


def test_all_tokens_to_one_expert():
    layer = build(top_k=1)
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[2] = 5
    x = torch.rand(2, 3, 8, dtype=torch.float64) + 0.1
    y, l_aux, _, stats = layer(x)
    sub = x.reshape(-1, 8)
    selection = select_experts(layer.router(sub), layer.config, True)
    torch.testing.assert_close(y.reshape(-1, 8), run_experts(layer, sub, selection))
    assert unpack(stats).load.tolist() == [0, 0, 6, 0]
    assert l_aux.item() > 3.5  # 4 when the gate is one-hot as well


def test_every_expert_chosen_is_the_gated_mean():
    layer = build(top_k=4)
    x = torch.randn(1, 3, 8, dtype=torch.float64)
    selection = select_experts(layer.router(x.view(-1, 8)), layer.config, True)
    torch.testing.assert_close(selection.gates.sum(1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(layer(x)[0].view(-1, 8), run_experts(layer, x.view(-1, 8), selection))


@pytest.mark.parametrize("quantized", [True, False])
def test_head_and_merge_layers_are_quantised_unless_left_out(quantized):
    layer = build(heads=2, input_bits=8, weight_bits=1, quantize_projections=quantized)
    seen = {}
    layer.router.register_forward_hook(lambda _, args, out: seen.update(sub=args[0]))
    layer.merge[0].register_forward_hook(lambda _, args, out: seen.update(merged=args[0]))
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    y, head, merge = layer(x)[0], layer.head[0], layer.merge[0]
    if quantized:
        torch.testing.assert_close(seen["merged"], int8_rows(seen["merged"]))
        expected = F.linear(int8_rows(x), ternary(head.weight), head.bias)
        merged = F.linear(seen["merged"], ternary(merge.weight), merge.bias)
    else:
        expected, merged = head(x), merge(seen["merged"])
    torch.testing.assert_close(seen["sub"], expected.view(-1, 4))  # the router's input is not quantised
    torch.testing.assert_close(y, merged)


def test_the_shared_expert_is_quantised_too():
    bits = dict(input_bits=8, weight_bits=1)
    layer = build(shared_expert_dim=6, bias=False, activation="relu", **bits)
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    hidden = F.relu(int8_rows(x) @ ternary(layer.shared.w_in[0]).t())
    expected = int8_rows(hidden) @ ternary(layer.shared.w_out[0]).t()
    shared, layer.shared = layer.shared, None
    without = layer(x)[0]
    layer.shared = shared
    torch.testing.assert_close(layer(x)[0] - without, expected)


def test_as_many_heads_as_features():
    layer = build(d_model=8, heads=8, top_k=2)
    assert layer.config.d_sub == 1
    assert layer(torch.randn(2, 3, 8, dtype=torch.float64))[0].shape == (2, 3, 8)


def test_sub_tokens_are_slices_of_the_token():
    x = torch.arange(12.0).view(1, 2, 6)
    assert split_heads(x, 3).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert torch.equal(merge_heads(split_heads(x, 3), x.shape), x)


def test_gradients_are_those_of_finite_differences():
    layer = build(heads=2, top_k=2, activation="swiglu", bias=True, subln=True, backend="loop")
    x = torch.randn(1, 3, 8, dtype=torch.float64, requires_grad=True)
    parameters = [layer.experts.w_in, layer.experts.w_out, layer.router.weight, layer.head[0].weight]
    assert torch.autograd.gradcheck(lambda x, *_: layer(x)[:3], (x, *parameters))


def test_router_trains_on_the_task_and_on_both_losses():
    layer = build(heads=2, top_k=1)
    x = torch.randn(1, 8, 8, dtype=torch.float64)
    for loss in (lambda out: out[0].sum(), lambda out: out[1], lambda out: out[2]):
        layer.zero_grad()
        loss(layer(x)).backward()
        assert layer.router.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_router_in_float32(dtype):
    layer = build(heads=2, top_k=2).to(torch.float32)
    gate = layer.router.weight.detach().clone()
    layer.to(dtype)
    assert layer.router.weight.dtype == torch.float32 and torch.equal(layer.router.weight, gate)
    assert layer.experts.w_in.dtype == dtype
    y, l_aux, _, _ = layer(torch.randn(1, 4, 8, dtype=dtype))
    assert y.dtype == dtype and l_aux.dtype == torch.float32
    y.sum().backward()
    assert layer.experts.w_in.grad.dtype == dtype


def test_autocast_runs_the_experts_in_its_type_and_the_router_in_float32():
    layer = build(top_k=2).float()
    seen = []
    layer.experts.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, l_aux, _, _ = layer(torch.randn(1, 4, 8))
    assert seen == [(torch.bfloat16, torch.bfloat16)] and l_aux.dtype == torch.float32


@needs_grouped_mm
@pytest.mark.parametrize(
    "rules",
    [
        dict(),
        dict(capacity_factor=1.25, batch_prioritized=True),
        dict(second_policy="random", normalize_gates="before"),
        dict(second_policy="sampling", normalize_gates="after"),
        dict(shared_expert_dim=16, residual=True, subln=True, router="xmoe"),
    ],
    ids=lambda rules: "+".join(rules) or "plain",
)
def test_host_never_asks_the_device(rules):
    # a meta tensor has no values: whatever would wait for one raises
    with torch.device("meta"):
        layer = MoELayer(MoEConfig(64, 8, 64, top_k=2, heads=2, activation="swiglu", **rules)).bfloat16()
        x = torch.randn(2, 8, 64, dtype=torch.bfloat16, requires_grad=True)
        y, l_aux, z_loss, stats = layer(x, torch.zeros(2, 8, dtype=torch.bool))
        (y.sum() + l_aux + z_loss).backward()
    assert y.shape == x.shape and stats.shape == (11,)
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("projections, std", [("head", (2 * 128) ** -0.5), ("merge", 128**-0.5)])
def test_head_and_merge_layers_start_as_in_v1(projections, std):
    # Xavier uniform over [D, D]: std gain / sqrt(D), bound sqrt(3) times that
    torch.manual_seed(0)
    layer = MoELayer(MoEConfig(128, 2, 8, heads=2, head_layers=2, merge_layers=2))
    for linear in getattr(layer, projections):
        assert linear.weight.std().item() == pytest.approx(std, rel=0.02)
        assert linear.weight.abs().max().item() == pytest.approx(3**0.5 * std, rel=0.01)
    biases = torch.stack([linear.bias for linear in getattr(layer, projections)])
    assert biases.std().item() == pytest.approx((3 * 128) ** -0.5 if projections == "head" else 0, rel=0.1)
