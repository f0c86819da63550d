"""The benchmark of the layer: what it measures is what it says, and its figures add up."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import layer_cases
import layer_plan
import layer_runs
import moe_layer
from layer_cases import Case, sweep_case
from layer_plan import Budget, full_plan
from layer_runs import build, make_layer, make_rows
from layer_table import table
from layer_variants import FLOORS, LIMITS, DenseFFN, ModuleRun, even_sizes
from timing import Times

CPU = torch.device("cpu")
KEYS = {
    "config", "dtype", "tokens", "num_experts", "routing", "pass", "variant", "ms", "ratio_dense", "ratio_limit",
    "ratio_balanced", "saved_mib", "runs",
}  # fmt: skip
# Ratios to the dense FFN and to the bare products that the layer is meant to keep (fp32), and what a busy machine adds.
TARGETS = {"b": (1.10, 1.20), "e": (1.20, 1.50)}
SLACK = 1.3


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Configuration "tiny", and torch's threads as they were."""
    monkeypatch.setitem(layer_cases.CONFIGS, "tiny", layer_cases._config(32, 2, 4, 2, 16, "swiglu"))
    monkeypatch.setitem(layer_cases.CONFIGS, "tiny3", layer_cases._config(32, 2, 6, 3, 16, "gelu"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def options(*words):
    return moe_layer.parse([str(word) for word in words])


@pytest.fixture
def figures(tmp_path, capsys):
    """figures(*options) -> (what the program writes, what it prints)."""

    def run(*words):
        target = tmp_path / "figures.json"
        moe_layer.main([*map(str, words), "--json", str(target)])
        return json.loads(target.read_text()), capsys.readouterr().out

    return run


def test_json_has_every_variant_and_its_ratios(figures):
    words = ["--configs", "tiny", "--tokens", 16, "--dtypes", "fp32", "--experts", "--rounds", 2]
    written, printed = figures(*words, "--variants", "ours", "bare", "dense_floor", "ours_recompute", "index_add_loop")
    assert set(written) == {"rows", "skipped", "machine", "torch", "command", "commit"}
    assert written["skipped"] == [] and written["machine"]["threads"] == 1
    rows = {(row["variant"], row["routing"], row["pass"]): row for row in written["rows"]}
    variants = [("ours", "balanced"), ("bare", "balanced"), ("dense_floor", "balanced"), ("ours_recompute", "balanced")]
    variants += [("index_add_loop", "balanced"), ("ours", "zipf"), ("ours", "one")]
    assert set(rows) == {(*variant, name) for variant in variants for name in ("forward", "forward+backward")}
    for (variant, _, name), row in rows.items():
        assert KEYS <= set(row)
        assert row["ratio_limit"] == pytest.approx(row["ms"] / rows["bare", "balanced", name]["ms"])
        assert row["ratio_dense"] == pytest.approx(row["ms"] / rows["dense_floor", "balanced", name]["ms"])
        assert row["ratio_balanced"] == pytest.approx(row["ms"] / rows[variant, "balanced", name]["ms"])
        assert (row["saved_mib"] is None) == (variant == "bare")
    assert rows["ours_recompute", "balanced", "forward"]["saved_mib"] < rows["ours", "balanced", "forward"]["saved_mib"]
    assert len([line for line in printed.splitlines() if line.startswith("| ")]) == 1 + len(variants)


def test_what_can_not_be_measured_is_listed_with_its_reason(figures):
    words = ["--configs", "tiny3", "--tokens", 16, "--dtypes", "fp32", "--experts", "--rounds", 1]
    written, printed = figures(*words, "--variants", "bare", "torchscale")
    (entry,) = written["skipped"]
    assert entry == {
        "config": "tiny3", "dtype": "fp32", "tokens": 16, "num_experts": 6, "variants": ["torchscale"],
        "reason": "its gates choose 1 or 2 experts, not 3",
    }  # fmt: skip
    assert "its gates choose 1 or 2 experts, not 3\n    tiny3 6 fp32 16: torchscale" in printed


def test_of_several_ways_the_fastest_median_counts():
    times = {
        "ours": [Times(2, 4), Times(3, 6), Times(100, 200)],
        "bare/loop": [Times(1, 5)],
        "bare/bmm": [Times(2, 2)],
        "ours@zipf": [Times(6, 12)],
    }
    rows = make_rows(Case("tiny", "fp32", 16), times, {}, {"ours": 1.0, "ours@zipf": 2.0})
    found = {(row["variant"], row["routing"], row["pass"]): row for row in rows}
    ours = found["ours", "balanced", "forward"]
    assert (ours["ms"], ours["ratio_limit"], ours["ratio_dense"]) == (3, 3, None)
    assert found["bare", "balanced", "forward"]["way"] == "loop"
    assert found["bare", "balanced", "forward+backward"]["way"] == "bmm"
    assert found["ours", "balanced", "forward+backward"]["ratio_limit"] == 9 / 4
    assert found["ours", "zipf", "forward+backward"]["ratio_balanced"] == 2


def counts_of(routing, config, tokens):
    layer, x, grad = make_layer(Case(config, "fp32", tokens), CPU)
    run = build(f"ours@{routing}", layer, x, grad)[f"ours@{routing}"]
    with torch.no_grad():
        return run.module(x)[3][: layer.config.num_experts], tokens * layer.config.heads


def test_all_to_one_routing_uses_the_first_experts_only():
    counts, rows = counts_of("one", "tiny", 48)
    assert counts.tolist() == [rows, rows, 0, 0]


def test_our_variants_share_weights_and_leave_the_layer_as_it_was():
    layer, x, grad = make_layer(Case("tiny", "fp32", 16), CPU)
    router = layer.router
    for variant in ("ours", "ours_bmm", "ours_recompute@one"):
        module = build(variant, layer, x, grad)[variant].module
        assert module is not layer and module.experts.w_in.data_ptr() == layer.experts.w_in.data_ptr()
    assert layer.router is router and module.config.recompute
    y, expected = (build(variant, layer, x, grad)[variant].forward() for variant in ("ours_bmm", "ours"))
    torch.testing.assert_close(y, expected)


def test_zipf_routing_follows_the_law():
    case = layer_cases.with_fields(layer_cases.CONFIGS["tiny"], top_k=1, num_experts=8, normalize_gates="none")
    layer_cases.CONFIGS["tiny"] = case
    counts, rows = counts_of("zipf", "tiny", 2048)
    law = 1 / torch.arange(1, 9)
    torch.testing.assert_close(counts / rows, law / law.sum(), atol=0.02, rtol=0)


def test_bare_products_have_the_flops_of_the_layer():
    case = Case("tiny", "fp32", 16)
    layer, x, grad = make_layer(case, CPU)
    for name, run in build("bare", layer, x, grad).items():
        with FlopCounterMode(display=False) as forward:
            run.forward()
        with FlopCounterMode(display=False) as backward:
            run.backward(None)
        assert name.partition("/")[2] in LIMITS
        assert forward.get_total_flops() == case.forward_flops
        assert backward.get_total_flops() == 2 * case.forward_flops


@pytest.mark.parametrize("config, tokens", [("tiny", 16), ("tiny3", 17)])
def test_the_dense_ffn_is_the_same_in_every_way(config, tokens):
    layer, x, grad = make_layer(Case(config, "fp32", tokens), CPU)
    results = []
    for way in FLOORS:
        run = ModuleRun(DenseFFN(layer, way), x, grad)
        run.clear()
        y = run.forward()
        run.backward(y)
        w_in = run.module.w_in
        grads = [w.grad for w in w_in] if way == "loop" else w_in.grad.unbind(0)
        results.append((y.detach(), x.grad, torch.stack(list(grads))))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-4, atol=1e-5)


def test_groups_are_even():
    assert even_sizes(11, 4) == [3, 3, 3, 2]


def test_saved_bytes_leave_out_parameters_and_input_and_count_a_storage_once():
    x = torch.randn(4, 8, requires_grad=True)
    linear = nn.Linear(8, 16)
    assert ModuleRun(linear, x, torch.ones(4, 16)).saved_bytes() == 0
    # tanh keeps its output, and the product after it keeps the same tensor
    module = nn.Sequential(linear, nn.Tanh(), nn.Linear(16, 2))
    assert ModuleRun(module, x, torch.ones(4, 2)).saved_bytes() == 4 * 16 * 4


def test_the_sweep_gives_every_expert_the_rows_asked_for():
    for config in layer_plan.SWEPT:
        for experts in layer_plan.EXPERTS:
            case = sweep_case(config, "fp32", experts, 128)
            c = case.layer_config
            assert 128 <= case.tokens * c.heads * c.top_k / experts < 300
            case.check()


def test_quick_and_what_it_leaves_out_are_the_whole_plan():
    chosen = options("--quick")
    planned = {(case, variant) for case, variants in chosen.plan for variant in variants}
    whole = {(case, variant) for case, variants in full_plan(chosen) for variant in variants}
    left_out = Budget(chosen).left_out()
    missing = {(e["config"], e["num_experts"], e["dtype"], e["tokens"], v) for e in left_out for v in e["variants"]}
    assert planned <= whole
    assert len(planned) + sum(len(entry["variants"]) for entry in left_out) == len(whole)
    assert ("d32", 32, "bf16", 8192, "ours") in missing and ("b", 40, "fp32", 2048, "ours") not in missing


def test_cases_for_which_no_time_is_left_are_listed(monkeypatch):
    budget = Budget(options("--quick"))
    monkeypatch.setattr(layer_plan, "QUICK_SECONDS", -1.0)
    chosen, (entry,) = budget.choose(Case("tiny", "fp32", 16), ("ours", "torchscale"))
    assert chosen == () and entry["variants"] == ["ours", "torchscale"]
    assert entry["reason"] == "no time left for it in the -1 s of --quick"


def test_peers_are_left_out_first(monkeypatch):
    budget = Budget(options("--quick"))
    monkeypatch.setattr(budget, "run_seconds", lambda case: 10.0)
    monkeypatch.setattr(budget, "left", lambda: 50.0)
    budget.options.longest_run = 20.0
    chosen, (entry,) = budget.choose(Case("tiny", "fp32", 16), ("ours", "torchscale"))
    assert chosen == ("ours",) and entry["variants"] == ["torchscale"]


def test_a_case_with_too_long_a_run_is_listed():
    budget = Budget(options("--configs", "tiny", "--longest-run", 1e-9))
    chosen, (entry,) = budget.choose(Case("tiny", "fp32", 16), ("ours",))
    assert chosen == () and "longer than --longest-run 1e-09" in entry["reason"]


def test_options_narrow_the_plan():
    chosen = options("--configs", "b", "--tokens", 256, "--dtypes", "bf16", "--routing", "zipf", "--experts", 8)
    (narrow, variants), (sweep, _) = chosen.plan
    assert (str(narrow), str(sweep)) == ("b N=40 bf16 256 tokens", "b N=8 bf16 256 tokens")
    assert "ours@zipf" in variants and "ours" not in variants and "bare" in variants


@pytest.mark.parametrize(
    "words, message",
    [
        (["--tokens", "600"], "600 tokens; expected less than 512 or a multiple of it"),
        (["--rounds", "0"], "--rounds 0: expected a positive number"),
        (["--case-seconds", "-1"], "--case-seconds -1.0: expected a positive number"),
        (["--experts", "1"], "top_k=2; expected at most the number of experts, 1"),
        (["--quick", "--configs", "b", "d32"], "--configs d32: nothing to measure with --quick"),
        (["--device", "abacus"], "--device abacus: "),
    ],
)
def test_options_that_make_no_sense_are_refused(capsys, words, message):
    with pytest.raises(SystemExit):
        options(*words)
    assert message in capsys.readouterr().err


def test_the_table_marks_single_runs():
    rows = make_rows(Case("tiny", "fp32", 16), {"bare/bmm": [Times(1, 2)]}, {}, {})
    assert "| bare | 1.0 | 1.00 |  | 3.0 | 1.00 |  |  | bmm; one run |" in table(rows)


def test_a_first_run_that_was_short_is_run_again(monkeypatch):
    found = iter([Times(1, 2), Times(3, 4), Times(400, 200)])
    monkeypatch.setattr(layer_runs, "time_once", lambda run, device: next(found))
    assert [layer_runs.warm_up(None, CPU) for _ in range(2)] == [Times(3, 4), Times(400, 200)]


@pytest.mark.slow
def test_ratios_are_near_their_targets(run_program, tmp_path):
    target = tmp_path / "figures.json"
    words = ["--configs", "b", "e", "--tokens", 512, "--dtypes", "fp32", "--routing", "balanced", "--experts"]
    words += ["--variants", "ours", "bare", "dense_floor", "--rounds", 3, "--case-seconds", 5, "--device", "cpu"]
    run_program("benchmarks/moe_layer.py", *words, "--json", target)
    rows = json.loads(target.read_text())["rows"]
    ours = {row["config"]: row for row in rows if (row["variant"], row["pass"]) == ("ours", "forward+backward")}
    for config, (dense, limit) in TARGETS.items():
        row = ours[config]
        assert row["ratio_dense"] <= SLACK * dense, row
        assert row["ratio_limit"] <= SLACK * limit, row
