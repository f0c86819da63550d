"""The profile of a training step: operations find their part, forward and backward, and the parts make the step."""

import gzip
import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import profile_step
import step_parts
from step_parts import ATTENTION, DENSE, EXPERTS, PREFIX, PRODUCTS, REST, module_range


def test_backward_products_belong_to_the_module_that_made_their_node():
    first, second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
    x = torch.randn(4, 8, requires_grad=True)
    with module_range(first, ATTENTION), module_range(second, EXPERTS), profile(activities=[ProfilerActivity.CPU]) as p:
        with record_function(PREFIX + REST):
            second(first(x).sin()).sum().backward()
    finder = step_parts.PartFinder(p.events())
    found = Counter((event.name, finder.part_of(event)) for event in p.events() if event.name.startswith("aten::"))
    for part in (ATTENTION, PRODUCTS):
        assert found["aten::addmm", part] == 1
        assert found["aten::mm", part] == 2  # gradients of input and weight
    assert found["aten::sin", REST] == found["aten::cos", REST] == 1


def test_parts_add_up_to_the_time_inside_the_ranges():
    model = torch.nn.Linear(16, 16)
    with module_range(model, DENSE), profile(activities=[ProfilerActivity.CPU]) as p:
        torch.randn(8, 16).exp()  # outside
        with record_function(PREFIX + REST):
            model(torch.randn(8, 16)).sum().backward()
    whole = next(event for event in p.events() if event.name == PREFIX + REST)
    parts = step_parts.milliseconds_by_part(p.events(), on_device=False)
    assert list(parts) == step_parts.PARTS
    assert sum(parts.values()) == pytest.approx(whole.cpu_time_total / 1000, rel=1e-3)
    by_name = step_parts.milliseconds_by_name(p.events(), on_device=False)
    assert "aten::exp" not in {name for name, _, _ in by_name}
    assert sum(ms for _, ms, _ in by_name) == pytest.approx(sum(parts.values()))


def test_ranges_leave_modules_as_they_were():
    model = torch.nn.Linear(2, 2)
    with module_range(model, DENSE):
        assert model._forward_hooks and model._forward_pre_hooks
    assert not model._forward_hooks and not model._forward_pre_hooks
    with step_parts.function_range(model, "extra_repr", DENSE):
        assert "extra_repr" in vars(model)
        assert model.extra_repr() == torch.nn.Linear.extra_repr(model)
    assert "extra_repr" not in vars(model)


def test_traces_of_several_models_have_their_own_names():
    path = Path("out/trace.json.gz")
    assert profile_step.trace_path(path, "dense", several=False) == path
    assert profile_step.trace_path(path, "dense", several=True) == Path("out/trace-dense.json.gz")


@pytest.mark.slow
def test_profile_of_a_step_with_trace_and_picture(run_program, tiny_data_dir, tmp_path):
    target, trace, picture = tmp_path / "parts.json", tmp_path / "trace.json.gz", tmp_path / "parts.png"
    words = ["--models", "mhmoe_v2", "--width", 64, "--layers", 2, "--steps", 1, "--warmup", 1, "--device", "cpu"]
    words += ["--data", tiny_data_dir, "--json", target, "--trace", trace]
    if importlib.util.find_spec("matplotlib"):
        words += ["--png", picture]
    output = run_program("benchmarks/profile_step.py", *words).stdout
    (row,) = json.loads(target.read_text())["rows"]
    assert row["ms"] == pytest.approx(sum(row["parts"].values()))
    without_work = {part for part, ms in row["parts"].items() if ms == 0}
    assert not without_work
    times = [operation["ms"] for operation in row["operations"]]
    assert len(times) == profile_step.TOP and times == sorted(times, reverse=True)
    assert output.count("| aten::") >= 5
    with gzip.open(trace) as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {PREFIX + step_parts.ROUTER, "aten::mm"} <= names
    if "--png" in words:
        assert picture.read_bytes().startswith(b"\x89PNG")
