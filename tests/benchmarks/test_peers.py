"""Other MoE layers in the benchmark do the work of ours: same weights, same output, same gradients."""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from layer_cases import with_fields
from peers import PEERS, Unsupported, refuse_large_masks, torchscale_moe

from fairseq_mhmoe.moe import MoEConfig, MoELayer

NEEDS = {"hf_eager": "transformers", "hf_grouped_mm": "transformers", "lucidrains": "mixture_of_experts"}
BASE = MoEConfig(32, 6, 12, 2, 2, activation="swiglu", bias=False, normalize_gates="before")
CONFIGS = {
    "swiglu": BASE,
    "gelu": with_fields(BASE, activation="gelu"),
    "one head": with_fields(BASE, heads=1, ffn_dim=16),
    "K = 1": with_fields(BASE, top_k=1, normalize_gates="none"),
    "K = 3": with_fields(BASE, top_k=3),
}


@pytest.fixture(scope="module", autouse=True)
def no_group_stays():
    """torchscale's layer makes a process group."""
    yield
    torchscale_moe.leave_group()


def layer_and_input(config):
    torch.manual_seed(0)
    return MoELayer(config), torch.randn(2, 9, 32, requires_grad=True)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_computes_the_same_function(peer, name):
    if peer in NEEDS:
        pytest.importorskip(NEEDS[peer])
    if peer.startswith("hf_") and name == "K = 1":
        pytest.skip("its gate is 1 then")
    layer, x = layer_and_input(CONFIGS[name])
    try:
        module = PEERS[peer](layer, x.shape).eval()  # in training some drop choices
    except Unsupported as reason:
        pytest.skip(str(reason))
    y, expected = module(x), layer(x)[0]
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-6)
    grad = torch.randn_like(y)
    (dx,), (expected_dx,) = (torch.autograd.grad(out, x, grad) for out in (y, expected))
    torch.testing.assert_close(dx, expected_dx, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "peer, name, reason",
    [
        ("torchscale", "K = 3", "its gates choose 1 or 2 experts, not 3"),
        ("lucidrains", "K = 1", "its gate chooses 2 experts, not 1"),
        ("hf_eager", "gelu", "its experts are SwiGLU, not gelu"),
        ("hf_grouped_mm", "gelu", "its experts are SwiGLU, not gelu"),
    ],
)
def test_a_peer_says_what_it_lacks(peer, name, reason):
    if peer in NEEDS:
        pytest.importorskip(NEEDS[peer])
    layer, x = layer_and_input(CONFIGS[name])
    with pytest.raises(Unsupported, match=reason):
        PEERS[peer](layer, x.shape)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    for module in ("transformers", "mixture_of_experts"):
        monkeypatch.setitem(sys.modules, module, None)
    layer, x = layer_and_input(BASE)
    for peer, package in (("hf_eager", "transformers"), ("lucidrains", "mixture-of-experts")):
        with pytest.raises(Unsupported, match=rf"{package} is not installed \(pip install '.\[benchmark\]'\)"):
            PEERS[peer](layer, x.shape)


def test_a_mask_that_does_not_fit_is_refused():
    refuse_large_masks(2**14, 2**13, 4)
    with pytest.raises(Unsupported, match="a dispatch mask of 1024 MiB, and at most 512 MiB are allowed"):
        refuse_large_masks(2**14, 2**14, 4)


def test_the_group_of_one_can_be_left_and_made_again():
    for _ in range(2):
        layer, x = layer_and_input(BASE)
        PEERS["torchscale"](layer, x.shape)(x)
        assert dist.get_world_size() == 1
        torchscale_moe.leave_group()
        assert not dist.is_initialized()
