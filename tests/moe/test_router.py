"""Routers: logits by hand, precision, and that a forward pass changes nothing."""

import math

import pytest
import torch
import torch.nn.functional as F

from fairseq_mhmoe.moe import MoEConfig
from fairseq_mhmoe.moe.router import CosineRouter, SoftmaxRouter, TorchscaleCosineRouter, build_router


def test_softmax_router_is_a_linear_layer():
    router, x = SoftmaxRouter(4, 3), torch.randn(5, 4)
    torch.testing.assert_close(router(x), x @ router.weight.t())
    assert router.weight.abs().max() <= 0.5


def test_xmoe_router_is_cosine_over_temperature():
    router, x = CosineRouter(8, 3, 4, temperature=0.3), torch.randn(5, 8)
    projected = router.projection(x)
    cosine = F.cosine_similarity(projected.unsqueeze(1), router.embedding.unsqueeze(0), dim=2)
    torch.testing.assert_close(router(x), cosine / 0.3)
    assert router(x).abs().max() <= 1 / 0.3 + 1e-4


def test_xmoe_temperature_is_learned():
    router = CosineRouter(8, 3, 4, temperature=0.3)
    router(torch.randn(5, 8)).square().sum().backward()
    assert router.log_temperature.grad.abs() > 0


def test_torchscale_router_normalises_the_embeddings_only():
    router, x = TorchscaleCosineRouter(8, 3, 4), torch.randn(5, 8)
    torch.testing.assert_close(router(x), router.projection(x) @ F.normalize(router.embedding, dim=1).t())
    torch.testing.assert_close(router(2 * x), 2 * router(x))


def test_torchscale_router_starts_at_norm_one_and_a_half():
    torch.testing.assert_close(TorchscaleCosineRouter(8, 3, 4).embedding.norm(dim=1), torch.full((3,), 1.5))


@pytest.mark.parametrize("router", [SoftmaxRouter(8, 3), CosineRouter(8, 3, 4, 0.3), TorchscaleCosineRouter(8, 3, 4)])
def test_two_forwards_before_one_backward(router):
    a, b = torch.randn(5, 8), torch.randn(5, 8)
    before = [p.detach().clone() for p in router.parameters()]
    router(a).square().sum().backward()
    router(b).square().sum().backward()
    apart = [p.grad.clone() for p in router.parameters()]
    router.zero_grad()
    first, second = router(a), router(b)
    (first.square().sum() + second.square().sum()).backward()
    for parameter, grad, value in zip(router.parameters(), apart, before):
        torch.testing.assert_close(parameter.grad, grad)
        assert torch.equal(parameter, value)


@pytest.mark.parametrize("name", ["softmax", "xmoe", "torchscale-cosine"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_are_float32_for_half_inputs(name, dtype):
    router = build_router(MoEConfig(16, 4, 8, router=name)).to(dtype)
    assert all(p.dtype == torch.float32 for p in router.parameters())
    assert router(torch.randn(3, 16, dtype=dtype)).dtype == torch.float32


def test_casting_up_is_not_prevented():
    assert build_router(MoEConfig(16, 4, 8)).double().weight.dtype == torch.float64


@pytest.mark.parametrize("heads, expected", [(1, 16), (2, 8), (3, 5), (4, 4), (12, 4)])
def test_space_of_the_xmoe_router_shrinks_with_the_heads(heads, expected):
    assert MoEConfig(48, 4, 8, heads=heads, router="xmoe").projected_dim == expected


def test_router_dim_and_temperature_are_options():
    router = build_router(MoEConfig(16, 4, 8, router="xmoe", router_dim=7, router_temperature=0.07))
    assert router.embedding.shape == (4, 7)
    assert float(router.log_temperature.detach()) == pytest.approx(math.log(0.07))
