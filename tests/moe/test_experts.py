"""Stacked experts equal separate feed-forward networks (N experts, d, F)."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairseq_mhmoe.moe.bitlinear import Quantization
from fairseq_mhmoe.moe.experts import StackedExperts
from tests.torch_features import GROUPED_MM, needs_grouped_mm

from .reference import int8_rows, ternary

BITNET = Quantization(inputs=True, weights=True)


def separate(experts: StackedExperts, x: torch.Tensor, sizes) -> torch.Tensor:
    """The same through torch's own modules, expert by expert."""
    outputs, width = [], experts.ffn_dim
    rounded = int8_rows if experts.quantization.inputs else lambda rows: rows
    for e, rows in enumerate(x.split(sizes)):
        w_in, w_out = experts.w_in[e], experts.w_out[e]
        if experts.quantization.weights:
            w_in = torch.cat([ternary(matrix) for matrix in w_in.split(width)])
            w_out = ternary(w_out)
        hidden = F.linear(rounded(rows), w_in, None if experts.b_in is None else experts.b_in[e])
        if experts.activation == "swiglu":
            hidden = F.silu(hidden[:, :width]) * hidden[:, width:]
        else:
            hidden = getattr(F, experts.activation)(hidden)
        if experts.norm_bias is not None:
            hidden = F.layer_norm(hidden, (width,), experts.norm_weight[e], experts.norm_bias[e])
        elif experts.norm_weight is not None:
            hidden = F.rms_norm(hidden, (width,), experts.norm_weight[e], 1e-5)
        outputs.append(F.linear(rounded(hidden), w_out, None if experts.b_out is None else experts.b_out[e]))
    return torch.cat(outputs)


@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("subln, rms_norm", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("backend", ["loop", GROUPED_MM])
def test_equal_to_separate_networks(activation, bias, subln, rms_norm, backend):
    assert_equal_to_separate_networks(activation, bias, subln, rms_norm, backend=backend)


# relu has a bias: sums of a few levels are often zero, or nearly, where its gradient jumps
@pytest.mark.parametrize("activation, bias", [("relu", True), ("gelu", False), ("swiglu", True), ("swiglu", False)])
@pytest.mark.parametrize("subln", [False, True])
@pytest.mark.parametrize(
    "backend, recompute",
    [("loop", False), ("loop", True), pytest.param("grouped_mm", False, marks=needs_grouped_mm), ("bmm", True)],
)
def test_quantised_experts_equal_separate_networks(activation, bias, subln, backend, recompute):
    how = dict(backend=backend, recompute=recompute, quantization=BITNET)
    assert_equal_to_separate_networks(activation, bias, subln, rms_norm=True, **how)


def assert_equal_to_separate_networks(activation, bias, subln, rms_norm, **how):
    torch.manual_seed(0)
    experts = StackedExperts(3, 8, 12, activation, bias, subln, rms_norm, **how)
    if subln:
        nn.init.normal_(experts.norm_weight)
    sizes = [2, 0, 5]
    x = torch.randn(7, 8)
    theirs = separate(experts, x, sizes)
    theirs.square().sum().backward()
    grads = {n: p.grad.clone() for n, p in experts.named_parameters()}
    experts.zero_grad()
    ours = experts(x, torch.tensor(sizes))
    ours.square().sum().backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for name, parameter in experts.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("quantization", [Quantization(inputs=True), Quantization(weights=True)])
@pytest.mark.parametrize("recompute", [False, True])
def test_one_side_can_be_quantised_alone(quantization, recompute):
    torch.manual_seed(0)
    experts = StackedExperts(2, 8, 12, "swiglu", recompute=recompute, quantization=quantization)
    x = torch.randn(7, 8, requires_grad=True)
    inputs = [x, *experts.parameters()]
    ours = torch.autograd.grad(experts(x, torch.tensor([4, 3])).square().sum(), inputs)
    for value, expected in zip(ours, torch.autograd.grad(separate(experts, x, [4, 3]).square().sum(), inputs)):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["loop", GROUPED_MM, "bmm"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rows_meet_ternary_weights_of_full_precision_masters(dtype, backend):
    torch.manual_seed(0)
    experts = StackedExperts(2, 16, 24, "swiglu", bias=False, backend=backend, quantization=BITNET)
    exact = StackedExperts(2, 16, 24, "swiglu", bias=False, quantization=BITNET)
    exact.load_state_dict(experts.state_dict())
    x = torch.randn(40, 16).to(dtype)
    for model, rows in ((experts, x), (exact, x.float())):
        model(rows, torch.tensor([25, 15])).float().square().sum().backward()
    for ours, theirs in zip(experts.parameters(), exact.parameters()):
        assert ours.grad.dtype == torch.float32
        assert (ours.grad - theirs.grad).norm() < 2e-2 * theirs.grad.norm()


def test_each_slice_starts_as_its_own_linear_layer_would():
    torch.manual_seed(0)
    experts = StackedExperts(4, 64, 256, "swiglu")
    linear_in, linear_out = nn.Linear(64, 512), nn.Linear(256, 64)
    for e in range(4):
        assert experts.w_in[e].std().item() == pytest.approx(linear_in.weight.std().item(), rel=0.03)
        assert experts.w_out[e].std().item() == pytest.approx(linear_out.weight.std().item(), rel=0.03)
        assert experts.b_in[e].std().item() == pytest.approx(linear_in.bias.std().item(), rel=0.15)
        assert experts.w_in[e].abs().max() <= 1 / 8
    assert not torch.equal(experts.w_in[0], experts.w_in[1])


def test_scaling_multiplies_matrices_and_biases_but_not_norms():
    torch.manual_seed(0)
    experts = StackedExperts(2, 4, 8, "gelu", bias=True, subln=True)
    before = {n: p.detach().clone() for n, p in experts.named_parameters()}
    experts.scale_weights(0.5)
    for name, parameter in experts.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (1 if "norm" in name else 0.5))


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    experts = StackedExperts(2, 4, 64, "gelu", dropout=0.5)
    x, counts = torch.randn(6, 4), torch.tensor([3, 3])
    assert not torch.equal(experts(x, counts), experts(x, counts))
    experts.eval()
    assert torch.equal(experts(x, counts), experts(x, counts))
