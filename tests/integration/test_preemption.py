"""A training that is asked to stop saves and ends, whatever it is doing; one process, and signals to real processes."""

import ctypes
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import fairseq_cli.train
import pytest
import torch
from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.trainer import Trainer

from fairseq_mhmoe.integration import preemption, stop_signals
from fairseq_mhmoe.integration.stop_signals import Requests, numbers_of

from .. import forks
from .conftest import OPTIONS


class Asked:
    """What Requests is to a training, without signals."""

    asked, is_rank = None, False


@pytest.fixture
def run(tiny_data_dir, tmp_path, monkeypatch):
    """run("--max-update", "3", ..., after=(name of a Trainer's method, calls)): trains; asked after so many calls."""
    monkeypatch.delattr(checkpoint_utils.save_checkpoint, "best", raising=False)
    monkeypatch.setattr(preemption._Job, "requests", Asked())
    monkeypatch.setattr(preemption._Job, "stop", None)
    monkeypatch.setattr(preemption, "BATCHES", 1)

    def train(*words, after=None):
        parser = options.get_training_parser()
        words = [str(tiny_data_dir), *OPTIONS, "--no-epoch-checkpoints", "--save-dir", str(tmp_path / "run"), *words]
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, words))
        requests = preemption._Job.requests = Asked()
        if after is None:
            requests.asked = "SIGTERM"
        else:
            ask_after(monkeypatch, requests, *after)
        metrics.reset()
        preemption.Stoppable(fairseq_cli.train.main)(cfg)
        return tmp_path / "run"

    return train


def ask_after(monkeypatch, requests, name, calls):
    original, made = getattr(Trainer, name), []

    def method(*args, **kwargs):
        made.append(name)
        if len(made) == calls:
            requests.asked = "SIGUSR1"
        return original(*args, **kwargs)

    monkeypatch.setattr(Trainer, name, method)


def updates_in(checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    return state["optimizer_history"][-1]["num_updates"]


def test_a_request_before_the_first_update_ends_at_once(run):
    folder = run("--max-update", "3", "--disable-validation")
    assert [path.name for path in folder.iterdir()] == [preemption.MARKER]
    assert json.loads((folder / preemption.MARKER).read_text())["updates"] == 0


def test_a_request_in_an_update_saves_after_it(run):
    folder = run("--max-update", "5", "--disable-validation", after=("train_step", 2))
    assert updates_in(folder / "checkpoint_last.pt") == 2
    report = json.loads((folder / preemption.MARKER).read_text())
    assert (report["updates"], report["signals"]) == (2, ["SIGUSR1 to rank 0"])


def test_a_request_in_the_last_update_changes_nothing(run):
    folder = run("--max-update", "2", "--disable-validation", after=("train_step", 2))
    assert updates_in(folder / "checkpoint_last.pt") == 2
    assert not (folder / preemption.MARKER).exists()


def test_a_request_while_validating_saves_first_and_validates_to_the_end(run, monkeypatch):
    happened = []
    save = checkpoint_utils.save_checkpoint

    def note_save(cfg, trainer, *args):
        happened.append("save")
        return save(cfg, trainer, *args)

    monkeypatch.setattr(checkpoint_utils, "save_checkpoint", note_save)
    after = ("valid_step", 2)
    original = Trainer.valid_step
    monkeypatch.setattr(Trainer, "valid_step", lambda *args, **kwargs: (happened.append("batch"), original(*args))[1])
    folder = run("--max-update", "9", "--validate-interval-updates", "2", after=after)
    assert happened[:3] == ["batch", "batch", "save"]
    assert "batch" in happened[3:] and happened.count("save") == 1
    assert updates_in(folder / "checkpoint_last.pt") == 2
    assert (folder / preemption.MARKER).exists()


def test_a_batch_made_again_after_running_out_of_memory_counts_once(monkeypatch):
    stop = SimpleNamespace(batches=0, save_now=print, agreed=False)
    monkeypatch.setattr(preemption._Job, "stop", stop)
    monkeypatch.setattr(preemption, "BATCHES", 9)

    def again(trainer):
        return preemption.valid_step(lambda trainer: None, trainer)

    preemption.valid_step(again, None)
    assert stop.batches == 1


def test_a_failure_is_not_an_early_stop(run, monkeypatch, tmp_path):
    def fail(*args):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / preemption.MARKER).touch()
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint_utils, "save_checkpoint", fail)
    with pytest.raises(OSError, match="no space"):
        run("--max-update", "5", "--disable-validation", after=("train_step", 1))
    assert not (tmp_path / "run" / preemption.MARKER).exists()


def test_signals_are_named():
    assert numbers_of("SIGTERM, SIGUSR2") == (signal.SIGTERM, signal.SIGUSR2)
    assert numbers_of("none") == ()


@pytest.mark.parametrize("names", ["SIGKILL", "TERM", "SIGTERM,", ""])
def test_what_is_no_signal_is_refused(names):
    with pytest.raises(ValueError, match="expected names such as SIGTERM,SIGUSR1, or none"):
        numbers_of(names)


def too_early(name):
    return 75


def be_a_rank(folder, is_rank):
    """Listens, and then waits in a call of the C library, as in a collective that nobody else comes to."""
    stop_signals.ONE_REQUEST = 1.0
    requests = Requests((signal.SIGTERM,), too_early)
    requests.is_rank = is_rank
    waiting, _ = os.pipe()
    Path(folder, "ready").touch()
    ctypes.CDLL(None).read(waiting, ctypes.create_string_buffer(1), 1)


def load_data(folder):
    """Two processes that load data, of a rank that listens; one is ended from outside, as Slurm would."""
    requests = Requests((signal.SIGTERM, signal.SIGUSR1), too_early)
    requests.is_rank = True
    batches = iter(torch.utils.data.DataLoader(range(400), num_workers=1, batch_size=2, prefetch_factor=1))
    next(batches)
    [worker] = multiprocessing.active_children()
    Path(folder, "worker").write_text(str(worker.pid))
    Path(folder, "ready").touch()
    while not Path(folder, "sent").exists():
        time.sleep(0.02)
    assert sum(len(batch) for batch in batches) == 398
    again = iter(torch.utils.data.DataLoader(range(400), num_workers=1, batch_size=2))
    [worker] = multiprocessing.active_children()
    next(again)
    worker.terminate()  # what torch does with one that does not end by itself
    worker.join(20)
    assert worker.exitcode == 0


def start(function, *arguments, folder):
    call = (function, (str(folder), *arguments))
    process = forks.server().Process(target=forks.become, args=(call, forks.QUIET, str(folder / "output.txt")))
    process.start()
    wait_for(folder / "ready", process)
    return process


def wait_for(path, process):
    end = time.monotonic() + 60
    while not path.exists() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.02)
    assert path.exists(), (path.parent / "output.txt").read_text()


def test_the_second_signal_ends_a_rank_that_waits_for_others(tmp_path):
    process = start(be_a_rank, True, folder=tmp_path)
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGTERM)
    process.join(1.5)
    assert process.exitcode is None  # both are one request
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    assert "the second signal" in (tmp_path / "output.txt").read_text()


def test_a_process_that_is_no_rank_yet_ends_at_once(tmp_path):
    process = start(be_a_rank, False, folder=tmp_path)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 75


def test_processes_that_load_data_end_when_their_rank_says_so(tmp_path):
    process = start(load_data, folder=tmp_path)
    worker = int((tmp_path / "worker").read_text())
    os.kill(worker, signal.SIGTERM)
    os.kill(worker, signal.SIGUSR1)
    time.sleep(0.3)
    (tmp_path / "sent").touch()
    process.join(60)
    assert process.exitcode == 0, (tmp_path / "output.txt").read_text()
