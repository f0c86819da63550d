"""Which checkpoint a training starts from when the last one is broken."""

import shutil
from pathlib import Path

import pytest
from fairseq import checkpoint_utils

from fairseq_mhmoe.checkpoint.errors import DamagedCheckpoint
from fairseq_mhmoe.integration import checkpoint_damage


@pytest.fixture
def last(make_trainer, train):
    """checkpoint_last.pt of 2 updates; beside it checkpoint_1_1.pt of one."""
    trainer = make_trainer()
    train(trainer, 1)
    path = Path(trainer.cfg.checkpoint.save_dir, "checkpoint_last.pt")
    shutil.copy(path, path.with_name("checkpoint_1_1.pt"))
    train(trainer, 1)
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def start(make_trainer, *words):
    trainer = make_trainer(*words)
    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    return trainer


def test_a_complete_one_is_taken(make_trainer, last):
    before = last.read_bytes()
    assert start(make_trainer).get_num_updates() == 2
    assert last.read_bytes() == before and len(list(last.parent.iterdir())) == 2


def test_the_one_before_takes_the_place_of_a_damaged_one(make_trainer, last, caplog):
    cut(last)
    damaged = last.read_bytes()
    assert start(make_trainer).get_num_updates() == 1
    assert f"{last} is not complete" in caplog.text
    assert f"continuing from {last.with_name('checkpoint_1_1.pt')} instead" in caplog.text
    assert last.with_name("checkpoint_last.pt.damaged").read_bytes() == damaged
    assert last.read_bytes() == last.with_name("checkpoint_1_1.pt").read_bytes()


def test_files_kept_aside_never_replace_each_other(last):
    for content in (b"one", b"two", b"three"):
        last.write_bytes(content)
        checkpoint_damage.keep_aside(last)
    kept = {path.name: path.read_bytes() for path in last.parent.glob("*.damaged")}
    assert kept == {
        "checkpoint_last.pt.damaged": b"one",
        "checkpoint_last.pt.1.damaged": b"two",
        "checkpoint_last.pt.2.damaged": b"three",
    }


def test_with_none_left_nothing_is_changed(make_trainer, last):
    for path in last.parent.iterdir():
        cut(path)
    before = {path: path.read_bytes() for path in last.parent.iterdir()}
    with pytest.raises(DamagedCheckpoint, match="has no complete checkpoint; nothing was trained or changed"):
        start(make_trainer)
    assert {path: path.read_bytes() for path in last.parent.iterdir()} == before


@pytest.mark.parametrize("option", ["--restore-file", "--finetune-from-model", "--continue-once"])
def test_a_damaged_file_that_was_named_is_an_error(make_trainer, last, tmp_path, option):
    named = tmp_path / "named.pt"
    shutil.move(last, named)
    cut(named)
    with pytest.raises(DamagedCheckpoint, match="named.pt: is cut or damaged"):
        start(make_trainer, option, named)


def test_a_file_that_was_named_and_is_not_there_is_an_error(make_trainer, tmp_path):
    with pytest.raises(ValueError, match="--restore-file .*missing.pt: there is no such file"):
        start(make_trainer, "--restore-file", tmp_path / "missing.pt")


def test_all_damaged_files_that_were_passed_over_are_kept_aside(make_trainer, last):
    best = last.with_name("checkpoint_best.pt")
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1  # a tensor's: the file still tells that it is newer than checkpoint_1_1.pt
    best.write_bytes(content)
    cut(last)
    assert start(make_trainer).get_num_updates() == 1
    assert best.with_name("checkpoint_best.pt.damaged").read_bytes() == content
    assert not best.exists()
    assert last.with_name("checkpoint_last.pt.damaged").exists()


def test_a_start_from_the_beginning_beside_checkpoints_is_said(make_trainer, last, caplog):
    last.unlink()
    assert start(make_trainer).get_num_updates() == 0
    assert f"give --restore-file {last.with_name('checkpoint_1_1.pt')}" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--write-checkpoints-asynchronously",), "--write-checkpoints-asynchronously can't be combined"),
        (("--optimizer", "composite"), "--optimizer composite can't be combined"),
    ],
)
def test_what_could_not_be_saved_is_refused_before_training(make_trainer, words, message):
    with pytest.raises(ValueError, match=message):
        start_spread(make_trainer, *words)


def start_spread(make_trainer, *words):
    trainer = make_trainer(*words, place=(0, 2))
    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
