"""scripts/run_multimodal.sh: its help, what it would run (DRY_RUN=1), and its complaints."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/run_multimodal.sh"


def script(*arguments, **environment):
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=ROOT, env=keep | environment, capture_output=True, text=True, timeout=60)


def test_without_arguments_it_is_the_demonstration():
    done = script(DRY_RUN="1")
    assert shlex.split(done.stdout) == [f"{ROOT}/.venv/bin/python", "-m", "fairseq_mhmoe.cli.multimodal_demo"]
    assert script("--models", "dense", DRY_RUN="1").stdout.endswith("--models dense\n")


def test_the_papers_size_on_eight_gpus():
    done = script(DRY_RUN="1", SIZE="paper", NGPUS="8", DATA_DIR="/data", SAVE_DIR="/run", MODEL="dense")
    training, evaluation = map(shlex.split, done.stdout.splitlines())
    assert training[0].endswith("torchrun") and training[training.index("--nproc-per-node") + 1] == "8"
    assert training[training.index("--config-name") + 1] == "v1/multimodal_dense"
    overrides = dict(word.split("=", 1) for word in training if "=" in word)
    assert overrides["task.data"] == "/data" and overrides["task.image_tokenizer"] == "/data/image_tokenizer.pt"
    assert (overrides["dataset.batch_size"], overrides["optimization.update_freq"]) == ("64", "[1]")
    assert evaluation[-6:] == ["/run/checkpoint_best.pt", "/data", "--split", "valid", "--output", "/run/scores.json"]


@pytest.mark.parametrize("gpus, nodes, batch, frequency", [("1", "1", "64", "[8]"), ("8", "2", "32", "[1]")])
def test_the_batch_stays_512(gpus, nodes, batch, frequency):
    done = script("optimization.max_update=7", DRY_RUN="1", SIZE="paper", NGPUS=gpus, NNODES=nodes)
    words = shlex.split(done.stdout.splitlines()[0])
    assert f"dataset.batch_size={batch}" in words and f"optimization.update_freq={frequency}" in words
    assert words[-1] == "optimization.max_update=7"


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"SIZE": "huge"}, "SIZE is 'huge'; give demo"),
        ({"SIZE": "paper", "MODEL": "smoe"}, "MODEL is 'smoe'; choose dense"),
        ({"SIZE": "paper", "NGPUS": "0"}, "NGPUS is '0'"),
        ({"SIZE": "paper", "NGPUS": "7"}, "BATCH 512 is not a multiple"),
        ({"SIZE": "paper", "DATA_DIR": "/none"}, "no /none/pairs/manifest.json; python -m data_prep.images --output"),
        ({"SIZE": "paper", "DATA_DIR": "/none"}, "no visual tokenizer /none/image_tokenizer.pt"),
    ],
)
def test_complaints(environment, message):
    done = script(**environment)
    assert done.returncode == 2 and message in done.stderr and done.stdout == ""


def test_an_override_has_a_value():
    done = script("--lr", "1", SIZE="paper", DRY_RUN="1")
    assert done.returncode == 2 and "'--lr' is no override" in done.stderr


def test_help_names_every_variable():
    text = script("--help").stdout
    used = set(re.findall(r"^  ([A-Z_]+)=\S", (ROOT / "scripts/lib/multimodal.sh").read_text(), re.MULTILINE))
    assert used - {"LAUNCHER"} <= set(re.findall(r"[A-Z_]{4,}", text))
