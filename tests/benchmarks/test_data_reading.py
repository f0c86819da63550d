"""benchmarks/data_reading.py: what it writes is an index, and it tells memory and speed of both tasks."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fairseq_mhmoe.data.blocks import TokenFile
from fairseq_mhmoe.data.checks import read_index

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import data_reading
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return data_reading


def test_the_index_has_the_tokens_asked_for_and_documents_end_in_eos(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "CHUNK", 64)
    script.write_index(tmp_path / "train", tokens=1000, document_tokens=20, seed=0)
    summary = read_index(tmp_path / "train")
    file = TokenFile(tmp_path / "train", summary)
    tokens = file.read(0, summary.tokens)
    assert summary.tokens == 1000
    assert np.flatnonzero(tokens == 2).tolist() == (np.cumsum(file.document_sizes()) - 1).tolist()


def test_memory_and_speed_are_told(script, tmp_path, capsys):
    words = "--tokens 20000 --sources 2 --alpha 0.5 --tokens-per-sample 32 --batches 10 --workers 1 --folder".split()
    script.write_folder(tmp_path, script.parse([*words, str(tmp_path)]))
    script.main([*words, tmp_path, "--measure"])
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row["task"] == "gpt" and row["workers"]["tokens"] == row["alone"]["tokens"] == 10 * 8 * 32
    assert row["memory_mib"]["imports"] <= row["memory_mib"]["peak"] and row["workers"]["tokens_per_s"] > 0


def test_several_sources_are_not_for_the_stock_task(script, capsys):
    with pytest.raises(SystemExit):
        script.parse(["--sources", "2", "--tasks", "language_modeling"])
    assert "--tasks language_modeling reads one source" in capsys.readouterr().err
