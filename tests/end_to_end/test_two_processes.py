"""Two processes on one machine, started by torchrun, with gloo. Experts are replicated: plain data parallelism."""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .conftest import ROOT, SMALL_BODY, SMALL_EXPERTS, words_of

SECONDS = 150
SETTINGS = {
    "user_dir": "fairseq_mhmoe",
    "cpu": True,
    "task": "gpt",
    "arch": "mhmoe_lm_tiny",
    **SMALL_BODY,
    **SMALL_EXPERTS,
    "criterion": "moe_cross_entropy",
    "optimizer": "sgd",
    "lr": 0.5,
    "tokens_per_sample": 32,
    "batch_size": 4,
    "num_workers": 0,
    "log_format": "json",
    "log_interval": 1,
    "no_epoch_checkpoints": True,
    "ddp_backend": "legacy_ddp",
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun(*command, processes=2):
    """Runs one command in several processes; kills all of them when they hang."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    address = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    process = subprocess.Popen(
        [*launcher, *address, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output


def train_command(data, save_dir, **options):
    reporter = Path(__file__).with_name("report_parameters.py")
    return [reporter, data, *words_of({**SETTINGS, "save_dir": save_dir, **options})]


@pytest.fixture(scope="module")
def two_processes(tiny_data_dir, tmp_path_factory):
    """(folder, output) of a training in two processes, continued from a checkpoint by two processes."""
    folder = tmp_path_factory.mktemp("two")
    status, output = torchrun(*train_command(tiny_data_dir, folder, max_update=3))
    assert status == 0, output[-4000:]
    status, more = torchrun(*train_command(tiny_data_dir, folder, max_update=6))
    assert status == 0, more[-4000:]
    return folder, output + more


def test_they_train_one_model(two_processes):
    _, output = two_processes
    parameters = dict.fromkeys(range(1, 7))
    for rank, update, value in re.findall(r"^parameters: rank (\d) update (\d+) (\w+)$", output, re.MULTILINE):
        parameters[int(update)] = {**(parameters[int(update)] or {}), rank: value}
    assert all(set(ranks) == {"0", "1"} for ranks in parameters.values())
    assert all(len(set(ranks.values())) == 1 for ranks in parameters.values())


def test_one_rank_logs_and_writes(two_processes):
    folder, output = two_processes
    assert output.count("Finished saving checkpoint") == 2
    assert {path.name for path in folder.iterdir()} == {"checkpoint_best.pt", "checkpoint_last.pt"}


def test_they_equal_one_process_with_two_batches_per_update(two_processes, run_program, tiny_data_dir, tmp_path):
    folder, _ = two_processes
    run_program("fairseq-train", tiny_data_dir, **SETTINGS, save_dir=tmp_path, update_freq=2, max_update=6)
    with torch.serialization.safe_globals([argparse.Namespace]):  # the settings of sgd
        two, one = (torch.load(path / "checkpoint_last.pt", weights_only=True)["model"] for path in (folder, tmp_path))
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=1e-4, atol=1e-6)


def test_the_default_ddp_backend_is_refused_on_the_cpu(tiny_data_dir, tmp_path):
    command = train_command(tiny_data_dir, tmp_path, max_update=1, ddp_backend="pytorch_ddp")
    status, output = torchrun(*command)
    assert status != 0
    assert "--ddp-backend pytorch_ddp needs GPUs: use --ddp-backend legacy_ddp on the CPU" in output
    assert not list(tmp_path.glob("*.pt"))


def test_hydra_in_two_processes(tiny_data_dir, tmp_path):
    program = Path(sys.executable).with_name("fairseq-hydra-train")
    status, output = torchrun(
        program, "--config-dir", "configs", "--config-name", "english_dense_tiny", "launch=torchrun_cpu",
        f"task.data={tiny_data_dir}", f"checkpoint.save_dir={tmp_path}", "task.tokens_per_sample=32",
        "dataset.batch_size=4", "optimization.max_update=2", "common.cpu=true", "model.decoder_layers=2",
    )  # fmt: skip
    assert status == 0, output[-4000:]
    assert output.count("Finished saving checkpoint") == 1
