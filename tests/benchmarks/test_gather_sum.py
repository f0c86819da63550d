"""benchmarks/gather_sum.py: all ways compute the same, and the program prints and writes."""

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import gather_sum
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return gather_sum


@pytest.mark.parametrize("top_k", [1, 3])
def test_all_ways_compute_the_same(script, top_k):
    rows, gates = torch.randn(8 * top_k, 4), torch.rand(8, top_k)
    index = torch.randperm(8 * top_k).view(8, top_k)
    expected = torch.einsum("sk,skd->sd", gates, rows[index])
    for way in script.WAYS:
        torch.testing.assert_close(way(rows, index, gates), expected)


def test_program_writes_one_line_for_each_way(script, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    words = ["--configs", "e", "--tokens", "16", "--device", "cpu", "--seconds", "0.001", "--json", figures]
    script.main(words)
    rows = json.loads(figures.read_text())["rows"]
    assert [row["variant"] for row in rows] == [way.__name__ for way in script.WAYS]
    # 32 sub-tokens, 2 choices and the sum, 128 wide, 4 bytes
    assert all(row["gb_per_s"] * row["ms"] == pytest.approx(32 * 3 * 128 * 4 / 1e6) for row in rows)
    assert "embedding_bag" in capsys.readouterr().out


def test_impossible_sizes_are_refused(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--tokens", "0"])
    assert "--tokens 0: expected positive numbers" in capsys.readouterr().err
