"""Tiny models, and a way to run the stock programs on them."""

import json
from dataclasses import dataclass

import pytest

from .. import forks
from ..distributed.launcher import words_of

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


@pytest.fixture(scope="session")
def run_program():
    """run_program(name, data folder, stdin="", check=True, **options) -> Result, in a process of its own."""

    def run(program, data, stdin="", check=True, **options):
        words = [str(data), *words_of({"user_dir": "fairseq_mhmoe", "cpu": True, **options})]
        done = forks.run_program(program, words, stdin)
        if check:
            assert done.returncode == 0, done.stdout[-4000:]
        return Result(done.returncode, done.stdout)

    return run


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
