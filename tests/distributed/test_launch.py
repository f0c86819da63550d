"""Several processes on this machine train one model, with gloo."""

import argparse
import re
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from .launcher import RankFailed, describe, python_ranks, torchrun, train_words


def sum_of_ranks(offset):
    total = torch.tensor([dist.get_rank() + offset])
    dist.all_reduce(total)
    return total.item()


def fail_on_rank_1():
    if dist.get_rank() == 1:
        raise ValueError("the second one")


def test_ranks_that_run_a_function_meet():
    assert python_ranks(sum_of_ranks, 3, (1,)) == [6, 6, 6]


def test_a_rank_that_raises_is_reported():
    with pytest.raises(RankFailed, match="ValueError: the second one"):
        python_ranks(fail_on_rank_1)


@pytest.fixture(scope="module")
def two_processes(tiny_data_dir, tmp_path_factory):
    """(folder, output) of a training in two processes of torchrun, continued from a checkpoint by two processes."""
    folder = tmp_path_factory.mktemp("two")
    reporter = Path(__file__).with_name("report_parameters.py")
    status, output = torchrun([reporter, *train_words(tiny_data_dir, folder, max_update=3)])
    assert status == 0, output[-4000:]
    status, more = torchrun([reporter, *train_words(tiny_data_dir, folder, max_update=6)])
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


def test_they_equal_one_process_with_two_batches_per_update(two_processes, train_ranks, tmp_path):
    folder, _ = two_processes
    train_ranks(tmp_path, processes=1, update_freq=2, max_update=6)
    with torch.serialization.safe_globals([argparse.Namespace]):  # the settings of sgd
        two, one = (torch.load(path / "checkpoint_last.pt", weights_only=True)["model"] for path in (folder, tmp_path))
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=1e-4, atol=1e-6)


def test_the_default_ddp_backend_is_refused_on_the_cpu(train_ranks, tmp_path):
    ended = train_ranks(tmp_path, check=False, max_update=1, ddp_backend="pytorch_ddp")
    assert all(rank.status != 0 for rank in ended), describe(ended)
    assert "--ddp-backend pytorch_ddp needs GPUs: use --ddp-backend legacy_ddp on the CPU" in ended[0].output
    assert not list(tmp_path.glob("*.pt"))


def test_hydra_in_two_processes(tiny_data_dir, tmp_path):
    program = Path(sys.executable).with_name("fairseq-hydra-train")
    settings = [
        "--config-dir", "configs", "--config-name", "english_dense_tiny", "launch=torchrun_cpu",
        f"task.data={tiny_data_dir}", f"checkpoint.save_dir={tmp_path}", "task.tokens_per_sample=32",
        "dataset.batch_size=4", "optimization.max_update=2", "common.cpu=true", "model.decoder_layers=2",
    ]  # fmt: skip
    status, output = torchrun([program, *settings])
    assert status == 0, output[-4000:]
    assert output.count("Finished saving checkpoint") == 1
