"""The program of many small trainings: its settings, what it reads out of logs, and one real run."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import sweep  # noqa: E402

OPTIONS = {"lr": 0.001, "seed": 1, "max-update": 4}


def line(tag, **figures):
    text = json.dumps({name: str(value) for name, value in figures.items()})
    return f"2026-01-01 00:00:00 | INFO | {tag} | {text}\n"


def write_log(path, updates):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "Some notice of a library\n"
    for update in updates:
        text += line("train_inner", num_updates=update, nll_loss=8 - update, gnorm=1, wps=100 * update)
        text += line("valid", valid_num_updates=update, valid_ppl=200 - update)
    path.write_text(text)
    return path


def test_common_options_and_those_of_a_run_are_joined(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"common": {"lr": 1, "seed": 1}, "runs": {"a": {}, "b": {"lr": 2}}}))
    assert sweep.read_settings(path) == {"a": {"lr": 1, "seed": 1}, "b": {"lr": 2, "seed": 1}}


@pytest.mark.parametrize("content", ["not json", "[]", '{"common": {}}', '{"common": 1, "runs": {"a": {}}}'])
def test_a_wrong_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="settings.json"):
        sweep.read_settings(path)


def test_curves_are_those_of_the_log(tmp_path):
    curves = sweep.read_curves(write_log(tmp_path / "train.log", [2, 4]))
    assert curves["valid"] == [[2, 198.0], [4, 196.0]]
    assert curves["train"] == [[2, 6.0, 1.0, None, None, None], [4, 4.0, 1.0, None, None, None]]
    assert curves["tokens_per_s"] == 300.0


def test_a_run_is_complete_when_its_last_update_was_validated(tmp_path):
    assert sweep.is_complete(sweep.read_curves(write_log(tmp_path / "all.log", [2, 4])), OPTIONS)
    assert not sweep.is_complete(sweep.read_curves(write_log(tmp_path / "cut.log", [2])), OPTIONS)
    assert not sweep.is_complete(sweep.read_curves(tmp_path / "none.log"), OPTIONS)


def test_missing_runs_are_trained_and_collected(tmp_path, tiny_data_dir, capsys):
    options = {
        "task": "gpt",
        "tokens-per-sample": 16,
        "batch-size": 2,
        "criterion": "moe_cross_entropy",
        "optimizer": "adam",
        "lr": 0.001,
        "max-update": 2,
        "seed": 1,
        "validate-interval-updates": 1,
        "log-interval": 1,
        "decoder-embed-dim": 16,
        "decoder-layers": 2,
        "decoder-attention-heads": 2,
        "decoder-ffn-embed-dim": 16,
        "moe-ffn-dim": 16,
    }
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"common": options, "runs": {"new": {"arch": "mhmoe_lm_tiny"}}}))
    words = [str(settings), "--data", str(tiny_data_dir), "--output", str(tmp_path / "logs")]
    sweep.main(words)
    found = json.loads((tmp_path / "settings.results.json").read_text())["runs"]["new"]
    assert [update for update, _ in found["valid"]] == [1, 2]
    assert found["valid"][-1][1] > 1 and found["train"][-1][3] > 0  # perplexity, and the gate's entropy
    log = tmp_path / "logs/new/train.log"
    before = log.stat().st_mtime_ns
    sweep.main(words)  # nothing is missing now
    assert log.stat().st_mtime_ns == before
    assert f"| {found['valid'][-1][1]:.1f} |" in capsys.readouterr().out
