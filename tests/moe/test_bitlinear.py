"""BitNet's quantisers by hand and by formula, straight-through gradients, mixed precision, what is kept."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fairseq_mhmoe.moe.bitlinear import UNQUANTIZED, Quantization, TernaryLinear, quantize_matrices, quantize_rows

from .reference import int8_rows, ternary

BITNET = Quantization(inputs=True, weights=True)


def test_rows_are_multiples_of_their_largest_number_over_127():
    x = torch.tensor([[127.0, -63.5, 0.5, 1.5, -0.4], [0.0, 0.0, 0.0, 0.0, -254.0]])
    expected = [[127.0, -64.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0, -254.0]]  # halves to even
    assert quantize_rows(x).tolist() == expected


def test_rows_of_zeros_stay_zero_and_tiny_ones_count_as_zero():
    assert quantize_rows(torch.zeros(2, 3)).eq(0).all()
    assert quantize_rows(torch.full((1, 3), 1e-9)).eq(0).all()
    assert quantize_rows(torch.zeros(0, 3)).shape == (0, 3)


def test_matrices_become_ternary_times_their_mean():
    weight = torch.tensor([[1.0, -1.0], [0.25, 0.75]])
    assert quantize_matrices(weight, torch.float32).tolist() == [[0.75, -0.75], [0.0, 0.75]]
    assert quantize_matrices(torch.zeros(2, 2), torch.float32).eq(0).all()


def test_every_matrix_has_its_own_mean():
    torch.manual_seed(0)
    weights = torch.randn(3, 8, 5) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1)
    whole = quantize_matrices(weights, torch.float32)
    halves = quantize_matrices(weights, torch.float32, parts=2)
    for e in range(3):
        torch.testing.assert_close(whole[e], ternary(weights[e]))
        torch.testing.assert_close(halves[e], torch.cat([ternary(half) for half in weights[e].chunk(2)]))
    assert not torch.equal(whole, halves)


@settings(max_examples=30)
@given(st.lists(st.floats(-1e4, 1e4, width=16), min_size=1, max_size=9), st.sampled_from(["float16", "bfloat16"]))
def test_half_precision_rounds_to_the_levels_of_float32(numbers, dtype):
    x = torch.tensor([numbers], dtype=getattr(torch, dtype))
    assert torch.equal(quantize_rows(x), quantize_rows(x.float()).to(x.dtype))
    assert torch.equal(quantize_matrices(x, x.dtype), quantize_matrices(x.float(), x.dtype))


@settings(max_examples=30)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_no_number_moves_further_than_half_a_level(numbers):
    x = torch.tensor([numbers], dtype=torch.float64)
    step = max(x.abs().max().item(), 1e-5) / 127
    levels = quantize_rows(x) / step
    assert (levels.round() - levels).abs().max() < 1e-9 and levels.abs().max() < 127 + 1e-9
    assert (quantize_rows(x) - x).abs().max() <= step * (0.5 + 1e-9)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6), (0, 6)])
def test_linear_layers_equal_straight_through_autograd(bias, shape):
    torch.manual_seed(0)
    linear, x = BITNET.linear(6, 4, bias).double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    seen = []
    for y in (linear(BITNET.enter(x)), F.linear(int8_rows(x), ternary(linear.weight), linear.bias)):
        inputs = [x, *linear.parameters()]
        seen.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
    for ours, theirs in zip(*seen):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("inputs, weights", [(True, False), (False, True)])
def test_one_side_can_be_quantised_alone(inputs, weights):
    torch.manual_seed(0)
    quantization = Quantization(inputs, weights)
    linear, x = quantization.linear(6, 4), torch.randn(5, 6)
    expected = F.linear(
        int8_rows(x) if inputs else x, ternary(linear.weight) if weights else linear.weight, linear.bias
    )
    torch.testing.assert_close(linear(quantization.enter(x)), expected)


def test_without_bits_nothing_changes():
    x, weight = torch.randn(2, 3), torch.randn(2, 4, 3)
    assert UNQUANTIZED == Quantization.of_bits(32, 32) and BITNET == Quantization.of_bits(8, 1)
    assert UNQUANTIZED.enter(x) is x and UNQUANTIZED.rows(x) is x
    assert UNQUANTIZED.matrices(weight, torch.float32, 2) is weight
    assert type(UNQUANTIZED.linear(3, 4)) is nn.Linear


def test_a_ternary_layer_starts_and_is_stored_as_a_linear_layer():
    torch.manual_seed(0)
    plain = nn.Linear(6, 4)
    torch.manual_seed(0)
    linear = BITNET.linear(6, 4)
    assert type(linear) is TernaryLinear and linear.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(linear.weight, plain.weight) and torch.equal(linear.bias, plain.bias)


def test_frozen_weights_get_no_gradient():
    linear, x = BITNET.linear(6, 4), torch.randn(5, 6, requires_grad=True)
    linear.weight.requires_grad_(False)
    linear(BITNET.enter(x)).sum().backward()
    assert linear.weight.grad is None and linear.bias.grad is not None and x.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_quantises_the_masters_and_multiplies_in_half(dtype):
    torch.manual_seed(0)
    linear, x = BITNET.linear(6, 4), torch.randn(5, 6, requires_grad=True)
    with torch.autocast("cpu", dtype):
        y = linear(BITNET.enter(x))
        expected = F.linear(int8_rows(x), ternary(linear.weight), linear.bias)
    assert y.dtype == dtype and torch.equal(y, expected)
    grads = torch.autograd.grad(y.sum(), (x, linear.weight, linear.bias))
    for ours, theirs in zip(grads, torch.autograd.grad(expected.sum(), (x, linear.weight, linear.bias))):
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs)


@pytest.mark.parametrize("mixed", [False, True])
def test_layers_share_their_quantised_input_and_keep_no_other_weight(mixed):
    linears = nn.ModuleList(BITNET.linear(6, 4) for _ in range(3))
    weights = {p.data_ptr() for p in linears.parameters()}
    kept = {}
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=mixed),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t),
    ):
        x = BITNET.enter(torch.randn(5, 6, requires_grad=True))
        sum(linear(x).sum() for linear in linears)
    assert [t.shape for address, t in kept.items() if address not in weights] == [(5, 6)]
