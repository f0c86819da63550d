"""Weights & Biases with a stand-in for its package: one run for one training, whatever goes wrong there."""

import json
import pickle
import sys
from types import SimpleNamespace

import pytest
from fairseq.logging import progress_bar

from fairseq_mhmoe.integration import tracking


class StandIn:
    """What tracking.py uses of wandb; keeps what it was told, and fails on demand."""

    def __init__(self):
        self.started, self.lines, self.config, self.failing, self.ended = [], [], {}, set(), []
        self.Settings = dict

    def init(self, **given):
        self.started.append(given)
        if "init" in self.failing and given["mode"] is None:
            raise RuntimeError("no answer\nfrom the server")
        return SimpleNamespace(
            id=given["id"] or f"run{len(self.started)}",
            log=self.log,
            finish=lambda exit_code: self.ended.append(exit_code),
            define_metric=lambda *args, **kwargs: None,
            config=SimpleNamespace(update=lambda config, allow_val_change: self.config.update(config)),
        )

    def log(self, figures):
        if "log" in self.failing:
            raise OSError("disk full")
        self.lines.append(figures)


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """The stand-in, imported as wandb by a training that saves into tmp_path."""
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    for name in ("WANDB_MODE", "WANDB_RUN_ID", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    start_program(monkeypatch, tmp_path)
    return stand_in


def start_program(monkeypatch, folder):
    monkeypatch.setattr(tracking, "_Tracking", SimpleNamespace(folder=folder, run=None, started=False))


def bar(project="moe"):
    return progress_bar.progress_bar([0], log_format="none", wandb_project=project, wandb_run_name="small")


def test_every_bar_of_a_training_writes_to_one_run(wandb):
    for tag, step in (("train_inner", 2), ("valid", 2), ("train", 4)):
        bar().print({"loss": 3.5, "num_updates": step, "stream_text_ppl": None}, tag=tag, step=step)
    assert len(wandb.started) == 1
    assert wandb.lines == [
        {"train_inner/loss": 3.5, "num_updates": 2},
        {"valid/loss": 3.5, "num_updates": 2},
        {"train/loss": 3.5, "num_updates": 4},
    ]


def test_a_training_that_is_started_again_goes_on_with_its_run(wandb, monkeypatch, tmp_path):
    bar()
    start_program(monkeypatch, tmp_path)
    bar()
    assert [given["id"] for given in wandb.started] == [None, "run1"]
    assert wandb.started[1]["resume"] == "allow" and wandb.started[1]["dir"] == tmp_path
    assert json.loads((tmp_path / tracking.RUN_FILE).read_text()) == {"project": "moe", "id": "run1"}


def test_another_project_is_another_run(wandb, monkeypatch, tmp_path):
    bar()
    start_program(monkeypatch, tmp_path)
    bar("other")
    assert wandb.started[1]["id"] is None


def test_without_a_server_the_run_is_kept_on_disk_and_the_log_says_so(wandb, caplog):
    wandb.failing = {"init"}
    bar().print({"loss": 3.5}, tag="train", step=1)
    assert [given["mode"] for given in wandb.started] == [None, "offline"] and len(wandb.lines) == 1
    assert "no run was started (no answer); the training goes on. With WANDB_MODE=offline" in caplog.text


def test_a_line_that_can_t_be_sent_does_not_end_the_training(wandb, caplog):
    wandb.failing = {"log"}
    bar().print({"loss": 3.5}, tag="train", step=1)
    assert "a line of figures was not sent (disk full); the training goes on" in caplog.text


def test_the_configuration_has_no_secrets_no_machines_and_no_paths(wandb):
    config = {
        "task": {"data": "/home/me/data/wiki:/mnt/books", "seed": 1, "hub_access_token": "abc"},
        "common": {"wandb_project": "moe", "lr": [0.1]},
        "distributed_training": {"distributed_init_method": "tcp://node17:29500", "ddp_backend": "legacy_ddp"},
    }
    bar().update_config(config)
    assert wandb.config == {
        "task": {"data": "wiki:books", "seed": 1},
        "common": {"wandb_project": "moe", "lr": [0.1]},
        "distributed_training": {"ddp_backend": "legacy_ddp"},
    }


@pytest.mark.parametrize("error, status", [(None, 0), (SystemExit(0), 0), (SystemExit(1), 1), (ValueError("x"), 1)])
def test_a_run_ends_as_the_training_ended(wandb, error, status):
    def main(cfg):
        bar()
        if error is not None:
            raise error

    try:
        tracking.Tracked(main)(None)
    except (SystemExit, ValueError) as raised:
        assert raised is error
    assert wandb.ended == [status]


def test_a_tracked_program_can_be_handed_to_a_new_process():
    assert pickle.loads(pickle.dumps(tracking.Tracked(len))).main is len


@pytest.mark.parametrize("option, package", [("wandb_project", "wandb"), ("tensorboard_logdir", "tensorboard")])
def test_a_tracker_that_is_not_installed_is_an_error_before_the_start(monkeypatch, option, package):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(progress_bar, "SummaryWriter", None)
    nothing = dict.fromkeys(("tensorboard_logdir", "wandb_project", "aim_repo", "azureml_logging"))
    with pytest.raises(ValueError, match=f"x: the package {package} is not installed.*pip install {package}"):
        tracking.check_packages(SimpleNamespace(**{**nothing, option: "x"}))
    tracking.check_packages(SimpleNamespace(**nothing))
