"""The benchmark of the cross entropy: its rows, what it skips, and that chunks save memory and cost no time."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import cross_entropy
from cross_entropy import MIB, Case, parse, plain_needs_mib, run_case, table, variants


@pytest.mark.parametrize("dtype, error", [("fp32", 1e-6), ("bf16", 1e-2)])
def test_rows_are_compared_with_plain(dtype, error):
    options = parse(["--chunks", "8", "16", "--rounds", "2", "--device", "cpu"])
    case = Case(vocabulary=50, width=4, tokens=32, dtype=dtype)
    peaks = dict(zip(variants(case, options, []), [60.0, 20.0, 30.0, 15.0]))
    rows = run_case(case, peaks, options)
    expected = [("plain", None), ("chunked", 8), ("chunked", 16), ("own", 8)]
    assert [(row["variant"], row["chunk"]) for row in rows] == expected[: 4 if dtype == "fp32" else 3]
    for row in rows:
        assert (row["vocabulary"], row["dtype"]) == (50, dtype)
        assert row["ms"] > 0 and row["ratio_plain"] == pytest.approx(row["ms"] / rows[0]["ms"])
        assert row["memory_ratio"] == pytest.approx(60.0 / row["peak_mib"])
    assert all(0 < row["gradient_error"] < error for row in rows[1:])
    assert len(table(rows, []).splitlines()) == 2 + len(rows)


def test_a_plain_loss_that_does_not_fit_is_skipped_with_its_reason(monkeypatch):
    case, skipped = Case(vocabulary=50, width=4, tokens=32, dtype="fp32"), []
    options = parse(["--chunks", "8", "--device", "cpu"])
    monkeypatch.setattr(cross_entropy, "available_mib", lambda device: 0.9 * plain_needs_mib(case))
    keys = variants(case, options, skipped)
    assert keys == [("chunked", 8), ("own", 8)]
    assert skipped[0]["variant"] == "plain" and "fewer --tokens" in skipped[0]["reason"]
    rows = run_case(case, dict.fromkeys(keys, 1.0), options)
    assert [row["ratio_plain"] for row in rows] == [row["gradient_error"] for row in rows] == [None, None]
    assert "skipped" in table(rows, skipped)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--chunks", "0"], "--chunks 0: expected 1 or more"),
        (["--vocabularies", "2"], "--vocabularies 2: expected 3 or more"),
        (["--seconds", "-1"], "--seconds -1.0: expected 1 or more"),
        (["--device", "nonsense"], "--device nonsense"),
    ],
)
def test_impossible_options_are_refused(capsys, words, message):
    with pytest.raises(SystemExit):
        parse(words)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_chunks_cost_neither_the_time_nor_the_memory_of_plain(run_program, tmp_path):
    target = tmp_path / "figures.json"
    sizes = ["--vocabularies", 16000, "--widths", 64, "--tokens", 1024, "--chunks", 128, "--rounds", 5]
    result = run_program("benchmarks/cross_entropy.py", *sizes, "--device", "cpu", "--json", target)
    content = json.loads(target.read_text())
    plain, chunked, own = content["rows"]
    assert plain["peak_mib"] == pytest.approx(1024 * 16000 * 12 / MIB, rel=0.2)
    assert chunked["ratio_plain"] < 1.3 * 1.1 and chunked["memory_ratio"] > 3 / 1.3
    assert own["ratio_plain"] < 1.3 * 1.2 and own["memory_ratio"] > 3 / 1.3
    assert max(chunked["gradient_error"], own["gradient_error"]) < 1e-6
    assert content["skipped"] == [] and content["machine"]["cpu"] and content["torch"] == torch.__version__
    assert content["command"][0] == "benchmarks/cross_entropy.py" and "| chunked | 128 |" in result.stdout
