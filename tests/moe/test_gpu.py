"""The layer on GPUs: no back end but the loop makes the host wait, and all compute what the CPU does.

What runs without a GPU here: a forward pass on torch's fake CUDA tensors, which follow the same way and have no values.
"""

import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from fairseq_mhmoe.moe import MoEConfig, MoELayer, backends
from tests.torch_features import GROUPED_MM, needs_fake_gpu, needs_grouped_mm

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SIZES = dict(d_model=64, num_experts=8, ffn_dim=96, top_k=2)
RULES = {
    "swiglu": dict(activation="swiglu", bias=False),
    "gelu, biases": dict(),
    "swiglu, SubLN": dict(activation="swiglu", subln=True, rms_norm=True),
    "one choice": dict(activation="relu", top_k=1),
    "capacity": dict(activation="swiglu", bias=False, capacity_factor=1.0),
}
BITNET = dict(RULES["swiglu"], input_bits=8, weight_bits=1)
# Rules of the layer under which a back end need not wait, and the type that it takes.
WITHOUT_WAITING = {"auto": {}, "grouped_mm": {}, "bmm": dict(capacity_factor=1.25)}
NOT_WAITING = [pytest.param("auto", marks=needs_grouped_mm), GROUPED_MM, "bmm"]


def capability():
    return torch.cuda.get_device_capability()


def half_precision():
    """What one trains in on this GPU."""
    return torch.bfloat16 if capability()[0] >= 8 else torch.float16


def build(dtype=torch.float32, **rules):
    torch.manual_seed(0)
    return MoELayer(MoEConfig(**{**SIZES, **rules})).to(dtype)


def outputs_and_gradients(layer, x):
    """y, losses and statistics, the gradients of x and of all parameters, on the CPU."""
    x = x.detach().requires_grad_()
    y, l_aux, z_loss, stats = layer(x)
    layer.zero_grad()
    (y.float().square().mean() + l_aux + z_loss).backward()
    results = {"y": y, "l_aux": l_aux, "z_loss": z_loss, "stats": stats, "x": x.grad}
    results.update((name, p.grad) for name, p in layer.named_parameters())
    return {name: value.detach().float().cpu() for name, value in results.items()}


def step(layer, x):
    y, l_aux, z_loss, _ = layer(x)
    (y.float().sum() + l_aux + z_loss).backward()


@pytest.fixture
def sync_debug_mode():
    """Sets torch's mode for operations that make the host wait, until the test is over."""
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def without_tf32():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def h100(monkeypatch):
    """The choice of a back end sees a device of capability 9."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    backends._grouped_mm_is_fast.cache_clear()
    yield
    backends._grouped_mm_is_fast.cache_clear()


def forward_on_fake_gpu(backend, rules):
    layer = build(torch.bfloat16, heads=2, backend=backend, **rules)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, 16, SIZES["d_model"], dtype=torch.bfloat16, device="cuda")
        return layer.to("cuda")(x, torch.zeros(2, 16, dtype=torch.bool, device="cuda"))[0]


@needs_fake_gpu
@pytest.mark.parametrize("backend", NOT_WAITING)
@pytest.mark.parametrize("rules", [*RULES.values(), BITNET], ids=[*RULES, "BitNet"])
def test_forward_on_a_gpu_asks_for_no_value(h100, backend, rules):
    y = forward_on_fake_gpu(backend, {**rules, **WITHOUT_WAITING[backend]})
    assert y.device.type == "cuda" and y.shape == (2, 16, SIZES["d_model"])


@needs_fake_gpu
@pytest.mark.parametrize("backend, rules", [("loop", {}), ("bmm", {})])
def test_fake_gpu_notices_who_asks(h100, backend, rules):
    with pytest.raises(DataDependentOutputException):
        forward_on_fake_gpu(backend, rules)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("backend", NOT_WAITING)
def test_host_does_not_wait(backend, recompute, sync_debug_mode):
    if backend != "bmm" and capability()[0] != 9:
        pytest.skip(f"torch has a grouped kernel for capability 9, not {capability()[0]}")
    layer = build(half_precision(), heads=2, backend=backend, recompute=recompute, **WITHOUT_WAITING[backend]).cuda()
    x = torch.randn(2, 64, SIZES["d_model"], device="cuda", dtype=half_precision(), requires_grad=True)
    step(layer, x)  # the first call may load kernels
    torch.cuda.synchronize()
    sync_debug_mode("error")
    step(layer, x)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_loop_waits_once(rules, sync_debug_mode):
    layer = build(half_precision(), heads=2, backend="loop", **rules).cuda()
    x = torch.randn(2, 64, SIZES["d_model"], device="cuda", dtype=half_precision(), requires_grad=True)
    step(layer, x)
    torch.cuda.synchronize()
    sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step(layer, x)
    assert len([w for w in caught if "synchronizing" in str(w.message)]) == 1


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("backend", ["loop", GROUPED_MM, "bmm", "auto"])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_float32_equals_the_cpu(rules, backend, recompute, without_tf32):
    layer = build(heads=2, backend="loop", **rules)
    x = torch.randn(2, 64, SIZES["d_model"], generator=torch.Generator().manual_seed(1))
    expected = outputs_and_gradients(layer, x)
    on_gpu = build(heads=2, backend=backend, recompute=recompute, **rules).cuda()
    on_gpu.load_state_dict(layer.state_dict())
    for name, value in outputs_and_gradients(on_gpu, x.cuda()).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("backend", ["loop", GROUPED_MM, "bmm", "auto"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_is_close_to_the_cpu(dtype, backend):
    if dtype == torch.bfloat16 and capability()[0] < 8:
        pytest.skip(f"bfloat16 needs capability 8, this is {capability()[0]}")
    # one head: the router then sees the same numbers on both devices and chooses the same experts
    layer = build(dtype, backend="loop", **RULES["swiglu"])
    x = torch.randn(2, 64, SIZES["d_model"], generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = outputs_and_gradients(layer, x)
    on_gpu = build(dtype, backend=backend, **RULES["swiglu"]).cuda()
    on_gpu.load_state_dict(layer.state_dict())
    for name, value in outputs_and_gradients(on_gpu, x.cuda()).items():
        error = (value - expected[name]).norm() / expected[name].norm()
        assert error < 2e-2, f"{name}: relative error {error:.3f}"


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("backend", ["loop", GROUPED_MM, "bmm"])
def test_experts_without_rows_get_zero_gradients(backend):
    # torch's grouped kernel has left something else there on some devices (PyTorch issue 172439)
    layer = build(half_precision(), backend=backend, **RULES["swiglu"]).cuda()
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[2:4] = 1
    x = torch.rand(2, 64, SIZES["d_model"], device="cuda", dtype=half_precision())
    torch.full((8, 2 * 96, 64), float("nan"), device="cuda", dtype=half_precision())  # what a new buffer may hold
    step(layer, x)
    chosen = torch.zeros(8, dtype=torch.bool).index_fill_(0, torch.tensor([2, 3]), True)
    for weight in (layer.experts.w_in, layer.experts.w_out):
        rows = weight.grad.float().abs().amax((1, 2)).cpu()
        assert torch.equal(rows > 0, chosen) and rows.isfinite().all()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("backend", ["loop", GROUPED_MM, "bmm"])
def test_same_numbers_every_time(backend):
    layer = build(half_precision(), heads=2, backend=backend, **RULES["gelu, biases"]).cuda()
    x = torch.randn(8, 512, SIZES["d_model"], device="cuda", dtype=half_precision())
    first, second = (outputs_and_gradients(layer, x) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
