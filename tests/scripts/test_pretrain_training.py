"""scripts/run_multilingual.sh for real: two languages, trained, resumed, evaluated by source; the folder is locked."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.pipeline import prepare
from data_prep.recipe import InputFile, Recipe, Settings

ROOT = Path(__file__).parents[2]
TINY = "--decoder-embed-dim 16 --decoder-layers 2 --decoder-attention-heads 2 --decoder-ffn-embed-dim 16".split()


@pytest.fixture(scope="module")
def two_languages(tmp_path_factory, write_dump, write_articles):
    folder = tmp_path_factory.mktemp("languages")
    inputs = []
    for number, name in enumerate(("de", "fr")):
        dump = write_dump(folder / f"{name}.xml", write_articles(40, seed=number))
        inputs.append(InputFile(dump, "wikipedia", name, language=name))
    settings = Settings(vocab_size=320, min_chars=20, valid_share=0.2, test_share=0.2)
    prepare(Recipe("two", tuple(inputs)), settings, folder / "data")
    return folder / "data"


def run(data, save_dir, *arguments, **environment):
    settings = dict(VENV=sys.prefix, DEVICE="cpu", DATA_DIR=data, SAVE_DIR=save_dir, MAX_UPDATE=3, WARMUP_UPDATES=1)
    settings |= dict(TOKENS_PER_SAMPLE=32, LOG_INTERVAL=1, BATCH=4, MODEL="dense") | environment
    return subprocess.run(
        ["bash", str(ROOT / "scripts/run_multilingual.sh"), *TINY, *arguments],
        env=os.environ | {name: str(value) for name, value in settings.items()},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.slow
def test_trains_evaluates_and_goes_on(two_languages, tmp_path):
    first = run(two_languages, tmp_path / "model", LOGLEVEL="WARNING")
    assert first.returncode == 0, first.stdout + first.stderr
    scores = json.loads((tmp_path / "model/scores.json").read_text())
    assert set(scores) == {"valid", "test"} and set(scores["valid"]["sources"]) == {"de", "fr"}
    assert all(part["bits_per_byte"] > 0 for part in scores["test"]["sources"].values())
    assert "creating new batches" not in first.stdout + first.stderr
    assert "|  test |     fr |" in first.stdout and "valid: Loss (base 2)" in first.stderr

    second = run(two_languages, tmp_path / "model", MAX_UPDATE=5, VENV=without_evaluation(tmp_path / "venv"))
    assert second.returncode == 0, second.stdout + second.stderr
    assert "Loaded checkpoint" in second.stdout and "num_updates=5" in second.stdout
    assert "num_updates=2," not in second.stdout
    evaluated = (tmp_path / "model/evaluate.log").read_text()  # the scores were of an older checkpoint
    assert evaluated.startswith("called: -m") and "--gen-subset valid,test" in evaluated
    assert evaluated.endswith(" at INFO\n") and "called: -m fairseq_mhmoe.cli.score_table" in second.stdout


def without_evaluation(folder):
    """An environment with the real fairseq-train; the programs that evaluate only say that they were called."""
    (folder / "bin").mkdir(parents=True)
    for name in ("fairseq-train", "fairseq-eval-lm", "python"):
        program = folder / "bin" / name
        real = f'exec {Path(sys.executable).with_name(name)} "$@"'
        real = real if name == "fairseq-train" else 'echo "called: $* at $LOGLEVEL"'
        program.write_text(f"#!/bin/sh\n{real}\n")
        program.chmod(0o755)
    return folder


def test_a_folder_at_work_is_left_alone(two_languages, tmp_path):
    with open(tmp_path / ".lock-0", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(two_languages, tmp_path)
    assert done.returncode == 2 and "another call is at work" in done.stderr
    assert not (tmp_path / "checkpoint_last.pt").exists()
