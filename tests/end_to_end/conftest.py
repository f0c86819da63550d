"""Tiny models, and a way to run the stock programs on them."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..distributed.launcher import words_of

ROOT = Path(__file__).resolve().parents[2]

# A tenth of a tiny preset: what is tested here is not what the model learns.
SMALL_BODY = {
    "decoder_embed_dim": 24,
    "decoder_ffn_embed_dim": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
}
SMALL_EXPERTS = {"moe_expert_count": 4, "moe_ffn_dim": 16}


@dataclass
class Result:
    """What a program left behind."""

    returncode: int
    output: str

    def json_lines(self, tag):
        """The JSON log lines of one tag (train, train_inner, valid)."""
        lines = (line.split(f"| {tag} | ", 1) for line in self.output.splitlines())
        return [json.loads(parts[1]) for parts in lines if len(parts) == 2 and parts[1].startswith("{")]


class ProgramServer:
    """Talks to program_server.py, which is started with the first request."""

    def __init__(self, folder):
        self.folder = folder
        self.process = None

    def start(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("program_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )

    def run(self, program, words, stdin=""):
        if self.process is None:
            self.start()
        source, output = self.folder / "input.txt", self.folder / "output.txt"
        source.write_text(stdin)
        request = dict(program=program, words=words, folder=str(ROOT), input=str(source), output=str(output))
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        status = self.process.stdout.readline()
        assert status, "the program server died"
        return Result(int(status), output.read_text())

    def stop(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait(timeout=10)


@pytest.fixture(scope="session")
def run_program(tmp_path_factory):
    """run_program(name, data folder, stdin="", check=True, **options) -> Result, in a process of its own."""
    server = ProgramServer(tmp_path_factory.mktemp("programs"))

    def run(program, data, stdin="", check=True, **options):
        words = [str(data), *words_of({"user_dir": "fairseq_mhmoe", "cpu": True, **options})]
        result = server.run(program, words, stdin)
        if check:
            assert result.returncode == 0, result.output[-4000:]
        return result

    yield run
    server.stop()


@pytest.fixture(scope="session")
def train(run_program, tiny_data_dir):
    """train(save_dir, arch=..., check=True, **options) -> Result of fairseq-train on a small model."""

    def start(save_dir, arch="mhmoe_lm_tiny", data=tiny_data_dir, check=True, **options):
        defaults = {
            "arch": arch,
            **SMALL_BODY,
            **({} if arch.startswith(("dense", "gpt")) else SMALL_EXPERTS),
            "task": "gpt",
            "criterion": "moe_cross_entropy",
            "tokens_per_sample": 32,
            "batch_size": 4,
            "required_batch_size_multiple": 1,
            "optimizer": "adam",
            "lr": 0.01,
            "max_update": 4,
            "num_workers": 0,
            "no_epoch_checkpoints": True,
            "log_format": "json",
            "log_interval": 1,
            "save_dir": save_dir,
        }
        return run_program("fairseq-train", data, check=check, **{**defaults, **options})

    return start
