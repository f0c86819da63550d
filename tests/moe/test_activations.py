"""Activations and their gradients equal torch's own, whichever tensors are at hand."""

import pytest
import torch
import torch.nn.functional as F

from fairseq_mhmoe.moe import activations
from fairseq_mhmoe.moe.activations import activate, activation_grad, kept_for_backward

THEIRS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "swiglu": lambda pre: F.silu(pre[:, : pre.shape[1] // 2]) * pre[:, pre.shape[1] // 2 :],
}


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("kept", ["as in the backward pass", "input only"])
def test_equal_to_torch(kind, kept):
    torch.manual_seed(0)
    pre = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    expected = THEIRS[kind](pre)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    hidden = activate(pre.detach(), kind)
    torch.testing.assert_close(hidden, expected.detach())
    at_hand = (pre.detach(), None) if kept == "input only" else kept_for_backward(pre.detach(), hidden, kind)
    again, grad_pre = activation_grad(*at_hand, grad.clone(), kind)
    torch.testing.assert_close(again, expected.detach())
    torch.testing.assert_close(grad_pre, pre.grad)


@pytest.mark.parametrize("shape", [(6, 16), (2, 6, 8)], ids=["side by side", "apart"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_what_is_written_for_the_compiler_computes_the_same(dtype, tolerance, shape, monkeypatch):
    torch.manual_seed(0)
    pre, grad = torch.randn(shape).to(dtype), torch.randn(6, 8).to(dtype)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)  # a real one takes half a minute
    activations.compiled.cache_clear()
    try:
        for ours, theirs in zip(
            (activate(pre, "swiglu", fused=True), *activation_grad(pre, None, grad.clone(), "swiglu", fused=True)),
            (activate(pre, "swiglu"), *activation_grad(pre, None, grad.clone(), "swiglu")),
        ):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    finally:
        activations.compiled.cache_clear()
