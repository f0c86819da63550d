"""Trainings that are killed, mostly while they save, end with the bits of one that nobody disturbed (kill_runs.py)."""

import json
import random

import pytest
import torch

from . import kill_runs
from .jobs import ForkedJob, TorchrunJob

KILLS, SEED = 10, 248  # its plans: each stage of a save and outside of one, either rank and both


def assert_undisturbed(runs):
    for run in runs:
        assert run.good, run


@pytest.mark.slow
def test_killed_runs_equal_the_undisturbed_one(tmp_path):
    runs = kill_runs.torture(tmp_path, KILLS, 2, SEED, ForkedJob)
    assert sum(len(run.kills) for run in runs) == KILLS
    assert_undisturbed(runs)


@pytest.mark.slow
def test_killed_under_torchrun(tmp_path):
    runs = kill_runs.torture(tmp_path, 1, 2, 7, TorchrunJob, ForkedJob)
    assert sum(len(run.kills) for run in runs) == 1
    assert_undisturbed(runs)


def test_most_kills_are_planned_inside_a_save():
    rng = random.Random(0)
    plans = [kill_runs.make_plan(rng, 2, 3.0) for _ in range(400)]
    assert sum(bool(plan.stage) for plan in plans) > 0.6 * len(plans)
    assert {plan.stage for plan in plans} >= set(kill_runs.STAGES)
    assert {plan.victim for plan in plans} == {0, 1, kill_runs.ALL}
    for plan in plans:
        assert plan.watched == 0 or not plan.stage or plan.stage in kill_runs.STAGES_OF_OTHERS


def test_a_different_weight_and_a_leftover_are_seen(tmp_path):
    state = {
        "model": {"w": torch.zeros(2)}, "last_optimizer_state": {}, "mhmoe_parameters": [], "optimizer_history": [{}],
        "extra_state": dict.fromkeys(kill_runs.COMPARED_EXTRA),
    }  # fmt: skip
    folders = tmp_path / "one", tmp_path / "other"
    for folder in folders:
        folder.mkdir()
        torch.save(state, folder / "checkpoint_last.pt")
    assert kill_runs.differences(*folders) == []
    state["model"]["w"][1] = 1e-30
    torch.save(state, folders[1] / "checkpoint_last.pt")
    (folders[1] / "checkpoint_1_2.pt.tmp").touch()
    found = kill_runs.differences(*folders)
    assert len(found) == 2 and "model.w." in found and "checkpoint_1_2.pt.tmp" in found[1] + found[0]


@pytest.mark.parametrize(
    ("run", "status", "words"),
    [
        (kill_runs.Run(), 0, "equal"),
        (kill_runs.Run(differences=["model.w"]), 1, "DIFFERENT"),
        (kill_runs.Run(lingered=["rank 1"]), 1, "RANKS HUNG"),
    ],
)
def test_the_exit_status_tells_whether_all_was_well(tmp_path, monkeypatch, capsys, run, status, words):
    run.kills = [{"victim": 1, "stage": "dense", "planned": "dense"}]
    monkeypatch.setattr(kill_runs, "torture", lambda *args: [run])
    assert kill_runs.main(["--kills", "1", "--json", str(tmp_path / "figures.json")]) == status
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["all_good"], figures["kills"], figures["inside_a_save"]) == (status == 0, 1, 1)
    assert "1 kills (100 % inside a save)" in capsys.readouterr().out
    assert kill_runs.verdict(run) == words
