"""scripts/run.sh trains for real: a tiny model on the CPU, resumed, and as two processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_mhmoe.cli.demo_programs import FASTER_ON_THE_CPU

ROOT = Path(__file__).parents[2]
SMALL_BODY = "--decoder-embed-dim 16 --decoder-layers 2 --decoder-attention-heads 2 --decoder-ffn-embed-dim 16"
SMALL_MHMOE = f"{SMALL_BODY} --mhmoe-heads-number 2 --moe-ffn-dim 8"


def run(*arguments, **environment):
    settings = dict(VENV=sys.prefix, DEVICE="cpu", ARCH="mhmoe_lm_tiny", UPDATE_FREQ=1, MAX_UPDATE=3, WARMUP_UPDATES=1)
    settings |= dict(TOKENS_PER_SAMPLE=32, LOG_INTERVAL=1, NUM_WORKERS=0) | environment
    return subprocess.run(
        ["bash", str(ROOT / "scripts/run.sh"), *map(str, arguments)],
        env=os.environ | {name: str(value) for name, value in settings.items()},
        capture_output=True,
        text=True,
        timeout=240,
    )


def losses(output):
    """Update -> loss of every logged update."""
    lines = re.findall(r"train_inner .*? loss=([\d.]+),.*?num_updates=(\d+)", output)
    return {int(update): float(loss) for loss, update in lines}


@pytest.fixture(scope="module")
def one_process(tiny_data_dir, tmp_path_factory):
    """(arguments, environment, result) of three updates in one process."""
    arguments = (1, 1, tmp_path_factory.mktemp("one") / "model", 8, "1e-3", 4, 2, 2, SMALL_MHMOE)
    environment = dict(DATA_DIR=tiny_data_dir, UPDATE_FREQ=2)
    done = run(*arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return arguments, environment, done


@pytest.mark.slow
def test_trains_and_resumes(one_process):
    arguments, environment, first = one_process
    folder = arguments[2]
    assert "PRECISION=fp32" in first.stderr
    assert sorted(losses(first.stdout)) == [1, 2, 3]
    assert (folder / "checkpoint_last.pt").exists()
    assert list((folder / "tb-logs").rglob("events*"))
    second = run(*arguments, **environment, MAX_UPDATE=5)
    assert second.returncode == 0, second.stdout + second.stderr
    assert sorted(losses(second.stdout)) == [4, 5]


@pytest.mark.slow
def test_two_processes_train_as_one_job(one_process, tiny_data_dir, tmp_path):
    _, _, one = one_process
    two = run(2, 1, tmp_path / "two", 8, "1e-3", 4, 2, 2, SMALL_MHMOE, DATA_DIR=tiny_data_dir, MASTER_PORT=29871)
    assert two.returncode == 0, two.stdout + two.stderr
    assert "P = 2, replicas = 1" in two.stderr
    assert losses(two.stdout) == pytest.approx(losses(one.stdout), abs=2e-3)


@pytest.mark.slow
def test_published_line_runs_with_its_warnings(tiny_data_dir, tmp_path):
    options = f"--moe-second-expert-policy random --moe-ffn-dim 16 {SMALL_BODY}"
    scaled_down = dict(DATA_DIR=tiny_data_dir, ARCH="gpt_small_v2", MAX_UPDATE=2, VALIDATE=1)
    done = run(1, 1, tmp_path, 8, "6e-4", 8, 1, 2, options, **scaled_down)
    assert done.returncode == 0, done.stdout + done.stderr
    for option in ("--flash-attention", "--moe-gating-use-fp32", "--moe-second-expert-policy"):
        assert f"{option} has no effect" in done.stdout + done.stderr
    assert (tmp_path / "checkpoint_best.pt").exists()


@pytest.mark.parametrize("given", [{}, {"MALLOC_TRIM_THRESHOLD_": "77"}])
def test_training_on_the_cpu_keeps_large_buffers_unless_told_otherwise(tiny_data_dir, tmp_path, monkeypatch, given):
    for name in FASTER_ON_THE_CPU:
        monkeypatch.delenv(name, raising=False)
    program = tmp_path / "bin/fairseq-train"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nenv\n")
    program.chmod(0o755)
    done = run(1, 1, tmp_path / "model", 4, "1e-3", 4, 1, 2, SMALL_BODY, DATA_DIR=tiny_data_dir, VENV=tmp_path, **given)
    assert done.returncode == 0, done.stderr
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if line.startswith("MALLOC_"))
    as_the_demonstration = {name: value for name, value in FASTER_ON_THE_CPU.items() if name.startswith("MALLOC_")}
    assert found.items() >= (as_the_demonstration | given).items()


def test_missing_environment_is_named(tiny_data_dir, tmp_path):
    done = run(1, 1, tmp_path / "model", 4, "1e-3", 4, 1, 2, SMALL_BODY, DATA_DIR=tiny_data_dir, VENV=tmp_path)
    assert done.returncode == 2
    assert f"no fairseq-train in {tmp_path}/bin; run bash scripts/setup.sh" in done.stderr
