"""benchmarks/image_data.py: what it measures is prepared and read, and the figures are of that."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import image_data
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return image_data


def test_figures_of_a_small_tar(script, tmp_path, tiny_data_dir, capsys):
    script.main(["--images", "20", "--dictionary", str(tiny_data_dir), "--json", str(tmp_path / "figures.json")])
    (row,) = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert row == json.loads(capsys.readouterr().out) and row["images"] == 20
    assert row["read_per_s"] > row["decoded_per_s"] > 0 and row["indexed_per_s"] > 0
    assert 20_000 < row["bytes_per_image"] < 50_000
