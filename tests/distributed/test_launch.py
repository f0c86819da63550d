"""Several processes on this machine train one model, with gloo."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from .launcher import (
    RankFailed,
    describe,
    kill_group,
    open_mpi_environment,
    python_ranks,
    slurm_environment,
    start_torchrun,
    torchrun,
    torchrun_environment,
    train_command,
)


def sum_of_ranks(offset):
    total = torch.tensor([dist.get_rank() + offset])
    dist.all_reduce(total)
    return total.item()


def fail_on_rank_1():
    if dist.get_rank() == 1:
        raise ValueError("the second one")


def train_losses(output):
    return re.findall(r'^.*\| train_inner \| .*"loss": "([\d.]+)"', output, re.MULTILINE)


def test_ranks_that_run_a_function_meet():
    assert python_ranks(sum_of_ranks, 3, (1,)) == [6, 6, 6]


def test_a_rank_that_raises_is_reported():
    with pytest.raises(RankFailed, match="ValueError: the second one"):
        python_ranks(fail_on_rank_1)


def test_ending_torchrun_ends_its_ranks(tmp_path):
    script = tmp_path / "wait.py"
    script.write_text("import os, pathlib, time\npathlib.Path(__file__).with_name(f'{os.getpid()}.pid').touch()\n"
                      "time.sleep(100)\n")  # fmt: skip
    process = start_torchrun([script], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while len(ranks := list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        kill_group(process)
    assert len(ranks) == 2
    end = time.monotonic() + 10
    while any(is_running(rank.stem) for rank in ranks) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(is_running(rank.stem) for rank in ranks)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def under_torchrun(tiny_data_dir, tmp_path_factory):
    """(folder, output) of a training in two processes of torchrun."""
    folder = tmp_path_factory.mktemp("two")
    status, output = torchrun(train_command(tiny_data_dir, folder, max_update=3))
    assert status == 0, output[-4000:]
    return folder, output


def test_the_processes_of_torchrun_train_one_model(under_torchrun):
    folder, output = under_torchrun
    assert len(train_losses(output)) == 3  # one rank logs
    assert "training on 2 devices" in output
    assert output.count("Finished saving checkpoint") == 1
    assert {path.name for path in folder.glob("*.pt")} == {"checkpoint_best.pt", "checkpoint_last.pt"}


@pytest.mark.parametrize("environment", [slurm_environment, open_mpi_environment])
def test_other_launchers_train_the_same_model(environment, under_torchrun, train_ranks, tmp_path):
    _, output = under_torchrun
    first, second = train_ranks(tmp_path, environment=environment, max_update=3)
    losses = train_losses(first.output)
    assert len(losses) == 3 and losses == train_losses(output)
    assert not train_losses(second.output)
    assert "training on 2 devices" in first.output


def test_a_launcher_s_missing_variable_is_named(train_ranks, tmp_path):
    def incomplete(rank, processes, port):
        return {**open_mpi_environment(rank, processes, port), "MASTER_PORT": ""}

    ended = train_ranks(tmp_path, check=False, environment=incomplete, max_update=1)
    assert all(rank.status == 1 for rank in ended), describe(ended)
    message = "error: Open MPI started this process, but MASTER_PORT is not set; set it to a free port"
    assert all(message in rank.output for rank in ended)
    assert not list(tmp_path.glob("*.pt"))


def test_the_default_ddp_backend_is_refused_on_the_cpu(train_ranks, tmp_path):
    dense = dict(arch="dense_lm_tiny", moe_expert_count=None, moe_ffn_dim=None)
    ended = train_ranks(tmp_path, check=False, max_update=1, ddp_backend="pytorch_ddp", **dense)
    assert all(rank.status != 0 for rank in ended), describe(ended)
    assert "--ddp-backend pytorch_ddp needs GPUs: use --ddp-backend legacy_ddp on the CPU" in ended[0].output
    assert not list(tmp_path.glob("*.pt"))


def absent(rank, processes, port):
    return torchrun_environment(rank, processes + 1, port)


def test_a_process_that_does_not_come_is_waited_for_no_longer_than_told(train_ranks, tmp_path):
    [alone] = train_ranks(tmp_path, processes=1, check=False, environment=absent, max_update=1, moe_timeout=2)
    assert alone.status == 1
    assert "rank 0: fairseq-train: error: the 2 processes did not meet at env:// within --moe-timeout 2" in alone.output


@pytest.mark.slow
@pytest.mark.parametrize(
    "program, launch",
    [
        ([Path(sys.executable).with_name("fairseq-hydra-train")], ["launch=torchrun_cpu"]),
        (["-m", "fairseq_mhmoe.cli.hydra_train"], []),
    ],
    ids=["stock", "ours"],
)
def test_hydra_in_two_processes(program, launch, tiny_data_dir, tmp_path):
    settings = [
        "--config-dir", "configs", "--config-name", "english_dense_tiny", *launch,
        f"task.data={tiny_data_dir}", f"checkpoint.save_dir={tmp_path}", "task.tokens_per_sample=32",
        "dataset.batch_size=4", "optimization.max_update=2", "common.cpu=true", "model.decoder_layers=2",
    ]  # fmt: skip
    status, output = torchrun([*program, *settings])
    assert status == 0, output[-4000:]
    assert output.count("Finished saving checkpoint") == 1
