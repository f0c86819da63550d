"""A rank that fails ends the job: every rank leaves with a message that names rank, layer and cause."""

import os
import re
import shutil
import signal
import time

import numpy as np
import pytest
import torch.distributed as dist
from fairseq.trainer import Trainer

from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.moe import MoELayer

from .launcher import torchrun, train_words

LAYER = "decoder.layers.1.moe_layer"


def in_update_2(act, who=1):
    """Makes the experts' layer do something, on one rank, once the training is under way."""
    calls = []

    def forward(original, layer, *args, **kwargs):
        calls.append(layer)
        if dist.get_rank() == who and len(calls) == 2:
            act()
        return original(layer, *args, **kwargs)

    wrap(MoELayer, "forward", forward)


def raise_error():
    raise RuntimeError("made to fail")


def run_out_of_memory():
    raise RuntimeError("CUDA out of memory. Tried to allocate too much")


def raise_in_a_layer():
    in_update_2(raise_error)


def run_out_of_memory_in_a_layer():
    in_update_2(run_out_of_memory)


def hang_in_a_layer():
    in_update_2(lambda: time.sleep(100))


def kill_yourself():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_rank_0():
    in_update_2(kill_yourself, who=0)


def kill_rank_1():
    in_update_2(kill_yourself)


def be_late_on_rank_1():
    def train_step(original, *args, **kwargs):
        if dist.get_rank() == 1:
            time.sleep(2.5)
        return original(*args, **kwargs)

    wrap(Trainer, "train_step", train_step)


def leave_early():
    def train_step(original, *args, **kwargs):
        raise SystemExit(0)

    wrap(Trainer, "train_step", train_step)


def only_line_with(text, output):
    [line] = [line for line in output.splitlines() if text in line]
    return line


@pytest.mark.parametrize(
    "failure, cause",
    [(raise_in_a_layer, "made to fail"), (run_out_of_memory_in_a_layer, "CUDA out of memory")],
)
def test_a_rank_that_raises_ends_the_others(failure, cause, train_ranks, tmp_path):
    start = time.monotonic()
    others, failed = train_ranks(tmp_path, check=False, before=failure, max_update=9)
    assert time.monotonic() - start < 100  # --moe-timeout is 600
    assert (others.status, failed.status) == (1, 1)
    assert f"rank 1: {LAYER}: RuntimeError: {cause}" in only_line_with("rank 1:", failed.output)
    line = only_line_with("rank 0:", others.output)
    assert line.startswith(f"rank 0: ending, because rank 1 failed: {LAYER}: RuntimeError: {cause}")
    assert "Traceback" in failed.output and "Traceback" not in others.output


def test_an_invalid_batch_is_named(train_ranks, tiny_data_dir, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tiny_data_dir, data)
    tokens = np.memmap(data / "train.bin", dtype=np.uint16, mode="r+")
    tokens[len(tokens) // 2] = 60000
    tokens.flush()
    ended = train_ranks(tmp_path / "out", check=False, data=data, max_update=400, batch_size=64)
    assert [rank.status for rank in ended] == [1, 1]
    [rank] = [i for i in (0, 1) if "invalid batch" in ended[i].output and "because" not in ended[i].output]
    line = only_line_with("invalid batch", ended[rank].output)
    assert line.startswith(f"rank {rank}: fairseq-train: error: invalid batch: token 60000 in sample ")
    line = only_line_with("invalid batch", ended[1 - rank].output)
    assert line.startswith(
        f"rank {1 - rank}: ending, because rank {rank} failed: ValueError: invalid batch: token 60000"
    )


def test_a_rank_that_hangs_ends_the_job_after_the_time_out(train_ranks, tmp_path):
    start = time.monotonic()
    waiting, hanging = train_ranks(tmp_path, check=False, before=hang_in_a_layer, max_update=9, moe_timeout=8)
    assert time.monotonic() - start < 90  # the hanging rank sleeps for 100
    assert (waiting.status, hanging.status) == (1, 1)
    message = f"waited longer than --moe-timeout 8 seconds for the other ranks in layer {LAYER}"
    assert only_line_with("waited longer", waiting.output).startswith(f"rank 0: {message}")
    line = only_line_with("rank 1:", hanging.output)
    assert line.startswith(f"rank 1: ending, because rank 0 failed: {message}")


@pytest.mark.parametrize("killed, kill", [(0, kill_rank_0), (1, kill_rank_1)])
def test_the_survivor_of_a_kill_says_where_it_was(killed, kill, train_ranks, tmp_path):
    ended = train_ranks(tmp_path, check=False, before=kill, max_update=9)
    survivor = 1 - killed
    assert ended[killed].status == -signal.SIGKILL
    assert ended[survivor].status == 1
    line = only_line_with(f"rank {survivor}:", ended[survivor].output)
    assert line.startswith(f"rank {survivor}: lost contact to ")


def test_a_rank_that_is_a_little_later_is_no_failure(train_ranks, tmp_path):
    ended = train_ranks(tmp_path, before=be_late_on_rank_1, max_update=1)
    assert not any("ending" in rank.output or "lost contact" in rank.output for rank in ended)


def test_leaving_with_status_0_is_no_failure(train_ranks, tmp_path):
    ended = train_ranks(tmp_path, before=leave_early, max_update=9)
    assert not any("ending" in rank.output or "lost contact" in rank.output for rank in ended)


@pytest.mark.slow
def test_torchrun_names_the_rank_that_failed(tiny_data_dir, tmp_path):
    program = tmp_path / "failing_train.py"
    program.write_text(
        "from fairseq_cli.train import cli_main\n"
        "from tests.distributed.test_failures import raise_in_a_layer\n"
        "raise_in_a_layer()\n"
        "cli_main()\n"
    )
    status, output = torchrun([program, *train_words(tiny_data_dir, tmp_path, max_update=9)], processes=4)
    assert status == 1
    failure = f"{LAYER}: RuntimeError: made to fail"
    said = sorted(line for line in output.splitlines() if line.startswith("rank "))
    expected = {rank: f"rank {rank}: ending, because rank 1 failed: {failure}" for rank in (0, 2, 3)}
    assert said == [expected[0], f"rank 1: {failure}", expected[2], expected[3]]
    assert re.search(r"Root Cause[^=]*\brank +: 1 ", output), output[-900:]
