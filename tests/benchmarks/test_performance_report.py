"""benchmarks/performance_report.py and gpu_report.py: tables hold the figures, and the document is what they give."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {
    "cpu": "Some CPU",
    "cores": 2,
    "threads": 1,
    "allocator": "jemalloc",
    "cpu_bf16": False,
    "gpu": None,
    "capability": None,
    "gpu_mib": None,
}


@pytest.fixture(scope="module")
def scripts():
    """The modules performance_report and gpu_report."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import gpu_report
        import performance_report
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return performance_report, gpu_report


def row(variant, ms, config="b", dtype="fp32", tokens=2048, experts=40, routing="balanced", **others):
    """One line of moe_layer.py, both passes, where bare takes 100 ms and the dense floor 125."""
    return {
        "config": config,
        "dtype": dtype,
        "tokens": tokens,
        "num_experts": experts,
        "routing": routing,
        "variant": variant,
        "pass": "forward+backward",
        "ms": ms,
        "ratio_limit": ms / 100,
        "ratio_dense": ms / 125,
        "ratio_balanced": ms / 110,
        "saved_mib": 64.0,
        **others,
    }


@pytest.fixture
def figures():
    rows = [
        row("ours", 110.0, saved_mib=32.0, load_max=1.3),
        row("ours", 40.0, **{"pass": "forward"}),
        row("bare", 100.0, saved_mib=None),
        row("dense_floor", 125.0),
        row("ours_recompute", 121.0, saved_mib=8.0),
        row("ours_loop", 112.0),
        row("hf_eager", 220.0),
        row("torchscale", 165.0, note="drops choices beyond K * ceil(S / N) of an expert"),
        row("ours", 121.0, routing="zipf", load_max=6.5),
        row("ours", 150.0, experts=256, tokens=8192),
        row("ours", 120.0, experts=8, tokens=256),
        row("ours", 330.0, dtype="bf16"),
    ]
    skipped = [{"config": "b", "variants": ["hf_eager", "torchscale"], "reason": "no time"}]
    return {
        "moe_layer": {"rows": rows, "skipped": skipped, "machine": MACHINE, "torch": "2.14", "commit": "abc"},
        "train_step": {
            "rows": [
                {
                    "model": "mhmoe_v2",
                    "tokens_per_update": 2048,
                    "tokens_per_s": 1234.5,
                    "ms": 829.5,
                    "peak_mib": 512.0,
                    "params": 12_345_678,
                    "flops_per_token": 98_700_000,
                    "ratio_dense": 1.08,
                    "speedup_over_torchscale_xmoe": None,
                }
            ],
            "machine": MACHINE,
            "torch": "2.14",
        },
        "profile_step": {
            "rows": [
                {"model": "dense", "ms": 40.0, "parts": {"attention": 30.0, "FFN": 10.0}},
                {"model": "mhmoe_v2", "ms": 50.0, "parts": {"attention": 30.0, "experts": 20.0, "FFN": 0.0}},
            ],
            "machine": MACHINE,
            "torch": "2.14",
        },
        "expected": json.loads((ROOT / "benchmarks/figures/expected.json").read_text()),
    }


def lines(scripts, name, figures):
    """A table without head, as lists of cells."""
    text = scripts[0].render(name, figures)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_layer_table_holds_ratios_and_the_best_peer(scripts, figures):
    assert lines(scripts, "layer", figures) == [
        ["b", "fp32", "2048", "40.0", "0.40", "0.32", "110", "1.10", "0.88", "0.67", "torchscale*"],
        ["b", "bf16", "2048", "-", "-", "-", "330", "3.30", "2.64", "-", "-"],
    ]


def test_peers_are_compared_with_ours(scripts, figures):
    text = scripts[0].render("peers", figures)
    assert text.splitlines()[0] == "| layer | type | tokens | hf_eager | torchscale* |"
    assert text.splitlines()[1] == "|---|---|---:|---:|---:|"
    assert lines(scripts, "peers", figures) == [["b", "fp32", "2048", "2.00", "1.50"]]


def test_skew_and_numbers_of_experts(scripts, figures):
    assert lines(scripts, "routing", figures) == [["b", "fp32", "2048", "zipf", "6.50", "1.10"]]
    assert lines(scripts, "experts", figures) == [
        ["b", "fp32", "8", "256", "120", "1.20", "1.00"],
        ["b", "fp32", "256", "8192", "150", "1.50", "1.25"],
    ]


def test_memory_and_back_ends(scripts, figures):
    assert lines(scripts, "memory", figures) == [["b", "fp32", "2048", "32.0", "64.0", "64.0", "8.00", "0.25", "1.10"]]
    figures["moe_layer"]["rows"].append(row("ours_fused", 99.0, dtype="bf16"))
    assert (
        scripts[0].render("backends", figures).startswith("| layer | type | tokens | N | loop x bare | fused x bare |")
    )
    assert lines(scripts, "backends", figures) == [
        ["b", "fp32", "2048", "40", "1.12", "-"],
        ["b", "bf16", "2048", "40", "-", "0.99"],
    ]


def test_step_and_profile(scripts, figures):
    assert lines(scripts, "step", figures) == [["mhmoe_v2", "2048", "1234", "830", "512", "12.3", "98.7", "1.08", "-"]]
    assert lines(scripts, "profile", figures) == [
        ["attention", "75.0", "60.0"],
        ["FFN", "25.0", "0.00"],
        ["experts", "0.00", "40.0"],
    ]


def test_cross_entropy_has_errors_where_something_was_compared(scripts):
    size = {"vocabulary": 65536, "width": 256, "tokens": 1024, "dtype": "fp32"}
    rows = [
        dict(size, variant="plain", chunk=None, ms=500.0, ratio_plain=1.0, peak_mib=800.0, memory_ratio=1.0),
        dict(size, variant="chunked", chunk=256, ms=525.0, ratio_plain=1.05, peak_mib=100.0, memory_ratio=8.0),
    ]
    for found, error in zip(rows, (None, 2.4e-7)):
        found["gradient_error"] = error
    assert lines(scripts, "cross entropy", {"cross_entropy": {"rows": rows}}) == [
        ["65536", "256", "1024", "fp32", "plain", "-", "500", "1.00", "800", "1.00", "-"],
        ["65536", "256", "1024", "fp32", "chunked", "256", "525", "1.05", "100", "8.00", "2e-07"],
    ]


def test_machine_and_what_was_left_out(scripts, figures):
    assert lines(scripts, "machine", figures)[0] == [
        "moe_layer.py", "Some CPU, 2 cores, bfloat16 instructions: no", "1", "jemalloc", "2.14", "abc",
    ]  # fmt: skip
    assert lines(scripts, "left out", figures) == [["moe_layer.py", "no time", "2"]]
    assert scripts[0].render("left out", {"moe_layer": {"skipped": []}}) == "Nothing."


def test_expected_times_have_a_line_for_each_size(scripts, figures):
    table = lines(scripts, "expected", figures)
    assert len(table) == len({tuple(line[:4]) for line in table}) == len(figures["expected"]["rows"]) / 6
    assert all(line[8] in ("loop", "grouped_mm") for line in table)


def test_only_marked_places_change(scripts, figures, tmp_path):
    document = (
        "Before.\n<!-- table: memory -->\nold\n<!-- end -->\nBetween.\n<!-- table: step -->\n<!-- end -->\nAfter.\n"
    )
    filled = scripts[0].fill(document, figures)
    assert "old" not in filled and "| b | fp32 | 2048 | 32.0 |" in filled
    assert [line for line in filled.splitlines() if line in ("Before.", "Between.", "After.")] == [
        "Before.", "Between.", "After.",
    ]  # fmt: skip
    assert scripts[0].fill(filled, figures) == filled


def test_parts_of_a_program_are_one_table_when_they_belong_together(scripts, figures, tmp_path):
    report, _ = scripts
    whole = figures["moe_layer"]
    for name, rows in (("moe_layer", whole["rows"][:4]), ("moe_layer-rest", whole["rows"][4:])):
        (tmp_path / f"{name}.json").write_text(json.dumps({**whole, "rows": rows, "commit": name}))
    together = report.read_figures(tmp_path)["moe_layer"]
    assert (together["rows"], together["commit"]) == (whole["rows"], "moe_layer, moe_layer-rest")
    (tmp_path / "moe_layer-other.json").write_text(json.dumps({**whole, "torch": "2.6.0"}))
    with pytest.raises(ValueError, match="moe_layer-other.json: its torch"):
        report.read_figures(tmp_path)


def test_missing_figures_are_said_to_be_missing(scripts):
    assert scripts[0].render("step", {"expected": {}}) == scripts[0].NOT_MEASURED


@pytest.mark.parametrize("document, complaint", [("<!-- table: speed -->\n<!-- end -->", "'speed'"), ("", "has no")])
def test_wrong_documents_are_refused(scripts, tmp_path, document, complaint):
    path = tmp_path / "document.md"
    path.write_text(document)
    with pytest.raises(SystemExit, match=complaint):
        scripts[0].main(["--document", str(path), "--figures", str(tmp_path)])
    assert path.read_text() == document


def test_the_document_is_what_the_stored_figures_give(scripts):
    scripts[0].main(["--check"])


def test_check_notices_another_figure(scripts, figures, tmp_path):
    document = tmp_path / "document.md"
    document.write_text("<!-- table: step -->\n<!-- end -->\n")
    (tmp_path / "train_step.json").write_text(json.dumps(figures["train_step"]))
    words = ["--document", str(document), "--figures", str(tmp_path)]
    scripts[0].main(words)
    scripts[0].main([*words, "--check"])
    figures["train_step"]["rows"][0]["ms"] = 999.0
    (tmp_path / "train_step.json").write_text(json.dumps(figures["train_step"]))
    with pytest.raises(SystemExit, match="is not what"):
        scripts[0].main([*words, "--check"])
    assert "830" in document.read_text()


def test_every_table_has_its_place(scripts):
    text = (ROOT / "docs/performance.md").read_text()
    assert sorted(match["name"] for match in scripts[0].MARKED.finditer(text)) == sorted(scripts[0].TABLES)


@pytest.mark.parametrize("capability, name", [("7.5", "V100"), ("8.6", "A100"), ("9.0", "H100"), ("12.0", "H100")])
def test_a_gpu_is_held_against_the_nearest_one(scripts, capability, name):
    assert scripts[1].paper_device(capability) == name


def test_gpu_report_puts_measured_beside_expected(scripts, figures, tmp_path):
    gpu = {**MACHINE, "gpu": "NVIDIA H100", "capability": "9.0"}
    figures["moe_layer"]["machine"] = gpu
    paper = next(
        r
        for r in figures["expected"]["rows"]
        if (r["device"], r["config"], r["tokens"], r["pass"], r["backend"])
        == ("H100", "b", 2048, "forward+backward", "grouped_mm")
    )
    figures["moe_layer"]["rows"][-1]["ms"] = 3 * paper["ms"]
    for name in ("moe_layer", "expected"):
        (tmp_path / f"{name}.json").write_text(json.dumps(figures[name]))
    (tmp_path / "train_step_bf16.json").write_text(json.dumps(figures["train_step"]))
    scripts[1].main([str(tmp_path)])
    text = (tmp_path / "report.md").read_text()
    assert f"| b | bf16 | 2048 | ours | {paper['ms']:.2f} | {3 * paper['ms']:.2f} | 3.00 |" in text
    assert "NVIDIA H100" in text and "Expected for H100; " in text
    assert "## Training step, bf16" in text and "No figures: cross_entropy.json is not there." in text


def test_gpu_report_needs_figures(scripts, tmp_path):
    with pytest.raises(SystemExit, match="no figures of a benchmark"):
        scripts[1].main([str(tmp_path)])
