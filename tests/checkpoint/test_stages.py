"""The moments of a save are logged in order, and only if asked for."""

import time

import pytest

from fairseq_mhmoe.checkpoint import reached
from fairseq_mhmoe.checkpoint.stages import STAGES

from .states import make_state, save


def test_a_save_logs_its_stages_in_order(tmp_path, monkeypatch):
    log = tmp_path / "stages.log"
    monkeypatch.setenv("MHMOE_SAVE_PAUSE", "0")
    monkeypatch.setenv("MHMOE_SAVE_LOG", str(log))
    monkeypatch.setenv("RANK", "3")
    save(tmp_path, make_state(), 2)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [stage for _, stage, _ in lines] == ["shard", "fsync", "rename"] * 2 + ["manifest", "dense", "commit"]
    assert {rank for rank, _, _ in lines} == {"3"}
    times = [float(moment) for _, _, moment in lines]
    assert times == sorted(times) and times[-1] <= time.monotonic()


@pytest.mark.parametrize("name", ["MHMOE_SAVE_PAUSE", "MHMOE_SAVE_LOG"])
def test_one_variable_alone_does_nothing(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, str(tmp_path / "1"))
    for stage in STAGES:
        reached(stage)
    assert not list(tmp_path.iterdir())


def test_a_stage_waits(tmp_path, monkeypatch):
    monkeypatch.setenv("MHMOE_SAVE_PAUSE", "0.05")
    monkeypatch.setenv("MHMOE_SAVE_LOG", str(tmp_path / "log"))
    begin = time.monotonic()
    reached("save")
    assert time.monotonic() - begin >= 0.05
