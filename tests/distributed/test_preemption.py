"""Two ranks that are stopped by signals, or killed under torchrun, end with the bits of a training left in peace."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from fairseq import checkpoint_utils

from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.integration.preemption import MARKER

from . import kill_runs
from .launcher import children_of, describe, kill_group, program_ranks, start_torchrun, torchrun_environment
from .test_failures import in_update_2


def signal_yourself(number):
    os.kill(os.getpid(), number)
    time.sleep(0.3)  # for the thread that reads it


def terminate_rank_1_in_an_update():
    in_update_2(lambda: signal_yourself(signal.SIGTERM))


def ask_both_in_a_save():
    saves = []

    def save(original, cfg, trainer, *args):
        saves.append(trainer.get_num_updates())
        if len(saves) == 2:
            signal_yourself(signal.SIGUSR1)
        return original(cfg, trainer, *args)

    wrap(checkpoint_utils, "save_checkpoint", save)


def torchrun_worker(rank, processes, port):
    return {**torchrun_environment(rank, processes, port), "TORCHELASTIC_RUN_ID": "none"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return kill_runs.write_data(tmp_path_factory.mktemp("preemption") / "data")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    ended = program_ranks("fairseq-train", kill_runs.command(data, folder))
    assert [rank.status for rank in ended] == [0, 0], describe(ended)
    return folder


def stopped(data, folder, **options):
    """Statuses of the ranks, and the marker's content if there is one."""
    ended = program_ranks("fairseq-train", kill_runs.command(data, folder), **options)
    assert not any("ending, because" in rank.output or "lost contact" in rank.output for rank in ended)
    report = json.loads((folder / MARKER).read_text()) if (folder / MARKER).exists() else None
    return [rank.status for rank in ended], report


def test_stopped_twice_a_training_ends_with_the_same_bits(data, undisturbed, tmp_path):
    folder = tmp_path / "run"
    statuses, report = stopped(data, folder, before=terminate_rank_1_in_an_update)
    assert statuses == [75, 75]
    assert report["signals"] == ["SIGTERM to rank 1"] and 1 <= report["updates"] <= 2
    # not 75, after which torchrun would start them again
    statuses, second = stopped(data, folder, before=ask_both_in_a_save, environment=torchrun_worker)
    assert statuses == [0, 0]
    assert second["signals"] == ["SIGUSR1 to rank 0", "SIGUSR1 to rank 1"]
    assert second["updates"] == report["updates"] + 2
    assert stopped(data, folder) == ([0, 0], None)
    assert kill_runs.differences(undisturbed, folder) == []


@pytest.mark.slow
def test_torchrun_starts_the_ranks_again_when_one_was_killed(data, undisturbed, tmp_path):
    folder, log, output = tmp_path / "run", tmp_path / "stages.txt", tmp_path / "output.txt"
    program = [Path(sys.executable).with_name("fairseq-train"), *kill_runs.command(data, folder)]
    environment = {"MHMOE_SAVE_PAUSE": "0.05", "MHMOE_SAVE_LOG": str(log), "PET_MAX_RESTARTS": "1"}
    with open(output, "w") as file:
        agent = start_torchrun(program, env=environment, stdout=file)
    try:
        wait_for_saves(log, 2, agent)
        [victim] = [pid for pid in children_of(agent.pid) if is_rank_1(pid)]
        os.kill(victim, signal.SIGKILL)
        assert agent.wait(240) == 0, output.read_text()[-4000:]
    finally:
        kill_group(agent)
    assert "Loaded checkpoint" in output.read_text()
    assert kill_runs.differences(undisturbed, folder) == []


def wait_for_saves(log, count, agent):
    end = time.monotonic() + 180
    while kill_runs.stages_reached(log).count((1, "saved")) < count:
        assert agent.poll() is None and time.monotonic() < end
        time.sleep(0.01)


def is_rank_1(pid):
    return b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
