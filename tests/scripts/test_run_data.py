"""Which data folders scripts/run.sh takes; a stand-in for fairseq-train says that it was started."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "run.sh"
LINE = ["1", "1", "run", "8", "6e-4", "8", "1", "2"]


@pytest.fixture
def run(tmp_path):
    """run(*names): run.sh on a data folder with (empty) files of these names."""
    program, data = tmp_path / "venv/bin/fairseq-train", tmp_path / "data"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho started\n")
    program.chmod(0o755)
    data.mkdir()

    def call(*names):
        for name in names:
            (data / name).write_text("")
        environment = {"PATH": os.environ["PATH"], "VENV": "venv", "DATA_DIR": str(data), "DEVICE": "cpu"}
        return subprocess.run(
            ["bash", str(SCRIPT), *LINE], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )

    return call


@pytest.mark.parametrize("tokenizer", ["spm.model", "tokenizer.tiktoken"])
def test_a_prepared_folder_of_several_sources_is_taken(run, tokenizer, tmp_path):
    done = run("manifest.json", "dict.txt", tokenizer)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("started\n")
    assert (f"--spm-model {tmp_path}/data/spm.model" in done.stdout) == (tokenizer == "spm.model")


def test_without_a_manifest_the_index_must_be_there(run):
    done = run("dict.txt", "spm.model")
    assert done.returncode == 2 and "has no train.bin" in done.stderr and "started" not in done.stdout
