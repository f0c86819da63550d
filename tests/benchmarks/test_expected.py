"""benchmarks/expected.py and operations.py: the paper model counts what a real layer does, and reckons as it says."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fairseq_mhmoe.moe import MoEConfig, MoELayer
from fairseq_mhmoe.moe.cost import moe_layer_cost
from tests.torch_features import needs_grouped_mm

pytestmark = needs_grouped_mm
ROOT = Path(__file__).resolve().parents[2]
TINY = MoEConfig(32, 4, 16, top_k=2, heads=2, activation="swiglu", bias=False)
BIASED = MoEConfig(32, 4, 16, top_k=2, heads=2)
TOKENS = 64


@pytest.fixture(scope="module")
def scripts():
    """The modules operations and expected."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import expected
        import operations
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return operations, expected


@pytest.fixture(scope="module", params=[TINY, BIASED], ids=["swiglu", "gelu, biases"])
def config(request):
    return request.param


@pytest.fixture(scope="module")
def recorded(scripts, config):
    operations, _ = scripts
    return operations.record(dataclasses.replace(config, backend="grouped_mm"), TOKENS)


def real_operations(operations, config):
    """What a real layer on the CPU does with real values."""
    torch.manual_seed(0)
    layer = MoELayer(config).bfloat16()
    x = torch.randn(1, TOKENS, config.d_model, dtype=torch.bfloat16, requires_grad=True)
    with operations.Recorder() as forward:
        y, l_aux, z_loss, _ = layer(x)
    grads = [torch.ones_like(output) for output in (y, l_aux, z_loss)]
    with operations.Recorder() as backward:
        torch.autograd.backward([y, l_aux, z_loss], grads)
    return forward.operations, backward.operations


def test_flops_are_those_of_the_cost_model(config, recorded):
    forward, backward = (sum(operation.flops for operation in part) for part in recorded)
    assert 3 * forward == moe_layer_cost(config).flops_per_token * TOKENS
    assert forward + backward == 3 * forward


def test_flops_are_those_that_torch_counts_in_a_real_layer(config, recorded):
    layer = MoELayer(dataclasses.replace(config, backend="loop"))
    x = torch.randn(1, TOKENS, config.d_model, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        y, l_aux, z_loss, _ = layer(x)
        (y.sum() + l_aux + z_loss).backward()
    assert counter.get_total_flops() == sum(operation.flops for part in recorded for operation in part)


def test_a_real_layer_moves_the_same_bytes(scripts, config, recorded):
    operations, _ = scripts
    otherwise_on_the_cpu = {"bincount", "zeros", "ones_like", "scatter_add_"}  # rows per expert are counted otherwise
    for real, paper in zip(real_operations(operations, dataclasses.replace(config, backend="grouped_mm")), recorded):
        moved = [[(o.name, o.bytes) for o in part if o.name not in otherwise_on_the_cpu] for part in (real, paper)]
        for (name, on_the_cpu), (paper_name, on_paper) in zip(*moved, strict=True):
            # the CPU's embedding_bag leaves some outputs that nobody reads empty
            assert name == paper_name
            assert on_the_cpu == pytest.approx(on_paper, rel=0.1 if "embedding_bag" in name else 0)


def test_bytes_of_operations_are_inputs_and_outputs(scripts):
    operations, _ = scripts
    x, index = torch.randn(8, 4), torch.tensor([1, 1, 5])
    with operations.Recorder() as recorder:
        x.t() @ x  # 2 x 128 bytes in, 64 out
        x.index_select(0, index)  # 3 rows of 16 bytes twice, 24 of index
        torch.mul(x, x[:1], out=torch.empty(8, 4))  # 128 and 16 in, 128 out
        torch.zeros_like(x)  # nothing in
        x.mul_(2)
        torch.nn.functional.embedding_bag(index.view(1, 3), x, mode="sum")
    moved = {operation.name: operation.bytes for operation in recorder.operations}
    assert moved["mm"] == 320
    assert moved["index_select"] == 24 + 2 * 48
    assert moved["mul"] == 272
    assert moved["zeros_like"] == 128
    assert moved["mul_"] == 256
    assert moved["_embedding_bag_forward_only"] >= 3 * 16 + 24 + 16  # and outputs that nobody reads
    assert "view" not in moved and "empty" not in moved


@pytest.fixture
def device(scripts):
    """1 TFLOP/s and 1 GB/s, of which all can be had."""
    _, expected = scripts
    return expected.Device("bfloat16", 1, 1, 1, 10, 9, "made up")


@pytest.fixture
def ideal(scripts, monkeypatch):
    _, expected = scripts
    shares = dict(products=1, bandwidth=1, gather=1, gather_sum=1, sort_passes=1, capacity_factor=1)
    times = dict(kernel_us=1, host_us=2, loop_us=4, sync_us=100)
    monkeypatch.setattr(expected, "ASSUMPTIONS", {**shares, **times, "tiles": {10: 1.0}})
    return expected


def test_an_operation_takes_what_its_slowest_part_takes(scripts, ideal, device):
    make = scripts[0].Operation
    assert ideal.device_us(make("mm", "product", 5_000_000, 1000), device, "loop") == 5
    assert ideal.device_us(make("mm", "product", 5_000_000, 9000), device, "loop") == 9
    assert ideal.device_us(make("add", "other", 0, 10), device, "loop") == 1


def test_a_loop_is_many_products_that_leave_processors_idle(scripts, ideal, device):
    # 4 groups of 10 rows and 20 columns: 2 tiles on 10 processors, and half a tile of 10 rows is lost in each group
    product = scripts[0].Operation("_grouped_mm", "grouped", 4_000_000, 0, 4, (40, 20, 8), "rows")
    assert ideal.device_us(product, device, "grouped_mm") == pytest.approx(4 * 60 / 40)
    assert ideal.device_us(product, device, "loop") == pytest.approx(4 * 60 / 40 * 5)


def test_the_slower_of_host_and_device_decides_between_waits(scripts, ideal, device):
    make = scripts[0].Operation
    before, product = make("add", "other", 0, 50_000), make("_grouped_mm", "grouped", 0, 0, 4, (40, 20, 8), "rows")
    assert ideal.estimate([before, product], device, "grouped_mm") == {
        "ms": 0.051, "device_ms": 0.051, "host_ms": 0.004, "kernels": 2, "waits": 0,
    }  # fmt: skip
    looped = ideal.estimate([before, product, product], device, "loop")
    assert (looped["kernels"], looped["waits"]) == (9, 1)
    assert looped["ms"] == pytest.approx((50 + 100 + 8 * 4) / 1e3)
    slow = dataclasses.replace(device, capability=8)
    assert ideal.estimate([before, product, product], slow, "grouped_mm")["waits"] == 2


@pytest.mark.parametrize("name", ["V100", "A100", "H100"])
def test_auto_is_what_the_layer_chooses(scripts, monkeypatch, name):
    from torch._subclasses.fake_tensor import FakeTensorMode

    from fairseq_mhmoe.moe import backends

    device = scripts[1].DEVICES[name]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (device.capability, 0))
    backends._grouped_mm_is_fast.cache_clear()
    with FakeTensorMode():
        x = torch.empty(64, 32, device="cuda", dtype=getattr(torch, device.dtype))
    chosen = backends.choose_backend("auto", x, [32, 16])
    backends._grouped_mm_is_fast.cache_clear()
    assert chosen == scripts[1].auto_backend(device)


def test_program_prints_and_writes(scripts, tmp_path, capsys):
    _, expected = scripts
    figures = tmp_path / "figures.json"
    expected.main(["--devices", "A100", "H100", "--configs", "e", "--tokens", "2048", "--json", str(figures)])
    content = json.loads(figures.read_text())
    assert {(r["device"], r["pass"], r["backend"]) for r in content["rows"]} == {
        (device, label, backend)
        for device in ("A100", "H100")
        for label in ("forward", "forward+backward")
        for backend in ("loop", "grouped_mm", "bmm")
    }
    assert all(r["ms"] >= max(r["limit_ms"], r["device_ms"]) > 0 for r in content["rows"])
    assert content["devices"]["H100"]["source"] and content["assumptions"]["host_us"] > 0
    printed = capsys.readouterr().out
    assert "| H100 | e | 2048 |" in printed and "H100 (bfloat16): auto takes grouped_mm" in printed
