"""scripts/train_image_tokenizer.sh: help, complaints, and a training from another folder."""

import os
import subprocess
from pathlib import Path

from fairseq_mhmoe.vision import load_tokenizer
from tests.multimodal_data import draw

ROOT = Path(__file__).parents[2]


def run(folder, *arguments, **environment):
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        ["bash", str(ROOT / "scripts/train_image_tokenizer.sh"), *map(str, arguments)],
        cwd=folder,
        env=keep | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_a_tokenizer_is_trained_from_any_folder(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.png").write_bytes(draw(number))
    small = "--image-size 16 --codes 5 --width 8 --steps 2 --batch-size 2".split()
    done = run(tmp_path, "images", "tokenizer.pt", *small)
    assert done.returncode == 0, done.stderr
    assert "of 5 codes used" in done.stdout and done.stderr == ""
    assert load_tokenizer(tmp_path / "tokenizer.pt").num_codes == 5


def test_missing_arguments_and_environments_are_named(tmp_path):
    for words in ([], ["images"], ["images", "--codes", "5"]):
        done = run(tmp_path, *words)
        assert done.returncode == 2 and "expected DATA and OUTPUT" in done.stderr
    done = run(tmp_path, "a", "b", VENV=str(tmp_path))
    assert done.returncode == 2 and "run bash scripts/setup.sh first" in done.stderr
