"""A full disk ends a training with a line before it costs anything, and never costs a complete checkpoint."""

import errno
import os
from types import SimpleNamespace

import pytest
from fairseq import checkpoint_utils

from fairseq_mhmoe.checkpoint import writing
from fairseq_mhmoe.checkpoint.reading import verify
from fairseq_mhmoe.integration import disk_space

from ..distributed.launcher import describe, program_ranks, train_words

SIZES = {
    "adam": [],
    "sgd": ["--optimizer", "sgd"],
    "fp16": ["--fp16"],
    "memory-efficient fp16": ["--memory-efficient-fp16"],
    "averages": ["--store-ema", "--ema-fp32"],
    "weights only": ["--no-save-optimizer-state"],
}


class Disk:
    """A file system with so many bytes and inodes free, in the eyes of the module that asks."""

    def __init__(self, free, inodes=1000):
        self.free, self.inodes = free, inodes

    def __call__(self, path):
        return SimpleNamespace(f_bavail=self.free // 1000, f_frsize=1000, f_files=2000, f_favail=self.inodes)


@pytest.fixture
def disk(monkeypatch):
    """disk(bytes, inodes=...): from now on that is free."""

    def set_free(*args, **kwargs):
        monkeypatch.setattr(disk_space.os, "statvfs", Disk(*args, **kwargs))

    return set_free


def contents_of(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("words", SIZES.values(), ids=SIZES)
def test_the_size_of_a_checkpoint_is_known_before_it_is_written(make_trainer, train, tmp_path, words):
    trainer = make_trainer("--max-update", "9", *words)
    train(trainer, 1)
    size = (tmp_path / "run" / "checkpoint_last.pt").stat().st_size
    dense, experts = disk_space.bytes_of(trainer)
    assert experts == 0
    # the rest is names and settings, as many bytes for every size of model
    assert -20_000 < size - dense < 60_000


def test_without_room_for_one_checkpoint_nothing_is_trained(make_trainer, train, tmp_path, disk):
    disk(100_000)
    with pytest.raises(
        OSError, match=r"one checkpoint takes about .* GB, and 0.0001 GB can be used; nothing was written"
    ):
        train(make_trainer("--max-update", "9"), 1)
    assert not contents_of(tmp_path / "run")


def test_with_room_for_few_there_is_a_warning(make_trainer, train, caplog, disk):
    disk(500_000)
    train(make_trainer("--max-update", "9"), 0)
    assert "there is room for" in caplog.text


@pytest.mark.parametrize("free", [dict(free=100_000), dict(free=10**9, inodes=0)], ids=["bytes", "inodes"])
def test_a_save_that_does_not_fit_is_not_begun(make_trainer, train, tmp_path, disk, free):
    trainer = make_trainer("--max-update", "9")
    epoch = train(trainer, 2)
    before = contents_of(tmp_path / "run")
    disk(**free)
    with pytest.raises(OSError, match="saving at update 2 takes about .* checkpoints are as they were"):
        checkpoint_utils.save_checkpoint(trainer.cfg.checkpoint, trainer, epoch, None)
    assert contents_of(tmp_path / "run") == before


def test_a_file_system_without_inodes_has_room(make_trainer, monkeypatch):
    trainer = make_trainer("--max-update", "9")
    monkeypatch.setattr(
        disk_space.os, "statvfs", lambda path: SimpleNamespace(f_bavail=5, f_frsize=10**9, f_files=0, f_favail=0)
    )
    assert disk_space.free_bytes(trainer.cfg.checkpoint, trainer) == 5 * 10**9


def test_what_is_reserved_can_not_be_used(make_trainer, disk):
    disk(3 * 10**9)
    trainer = make_trainer("--disk-reserve", "2")
    assert disk_space.free_bytes(trainer.cfg.checkpoint, trainer) == 10**9


def test_below_zero_nobody_looks(make_trainer, train, tmp_path, disk):
    disk(0)
    train(make_trainer("--max-update", "9", "--disk-reserve", "-1"), 1)
    verify(tmp_path / "run" / "checkpoint_last.pt")


def test_the_fullest_moment_of_a_save_is_counted(make_trainer, train, tmp_path):
    trainer = make_trainer("--save-interval-updates", "2")
    cfg = trainer.cfg.checkpoint
    epoch = train(trainer, 1)
    (tmp_path / "run" / "checkpoint_last.pt").unlink()
    assert disk_space.files_at_once(cfg, trainer, epoch, None) == 1  # last
    assert disk_space.files_at_once(cfg, trainer, epoch, 3.0) == 2  # best, last
    trainer.train_step([epoch.first_batch])
    assert disk_space.files_at_once(cfg, trainer, epoch, 3.0) == 3  # and one of this update
    checkpoint_utils.save_checkpoint(cfg, trainer, epoch, 3.0)
    assert disk_space.files_at_once(cfg, trainer, epoch, 3.0) == 2  # best and last are replaced, one at a time


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_within_a_write_costs_no_checkpoint(make_trainer, train, tmp_path, monkeypatch, number):
    trainer = make_trainer("--max-update", "9")
    epoch = train(trainer, 1)
    before = contents_of(tmp_path / "run")
    fill_after(50_000, number, monkeypatch.setattr)
    with pytest.raises(
        OSError, match="the disk is full .*checkpoint_last.pt.*complete checkpoints are as they were; free"
    ):
        checkpoint_utils.save_checkpoint(trainer.cfg.checkpoint, trainer, epoch, None)
    assert contents_of(tmp_path / "run") == before


def fill_after(size, number, setattr):
    start = writing._Hashed.__init__

    class Full:
        def __init__(self, file):
            self.file, self.flush = file, file.flush

        def write(self, data):
            if self.file.tell() > size:
                raise OSError(number, os.strerror(number))
            return self.file.write(data)

    setattr(writing._Hashed, "__init__", lambda self, file: start(self, Full(file)))


def fill_disk_of_last_rank():
    """The disk of rank 1 is full after the second update: by its own account, or within a write."""
    statvfs, save = os.statvfs, checkpoint_utils.save_checkpoint

    def save_on_full_disk(cfg, trainer, *args, **kwargs):
        if os.environ["RANK"] == "1" and trainer.get_num_updates() == 2:
            if trainer.cfg.model.disk_reserve < 0:
                fill_after(1000, errno.EDQUOT, setattr)
            else:
                os.statvfs = Disk(10_000)
        try:
            return save(cfg, trainer, *args, **kwargs)
        finally:
            os.statvfs = statvfs

    checkpoint_utils.save_checkpoint = save_on_full_disk


@pytest.mark.parametrize("looked", [True, False], ids=["before it writes", "within a write"])
def test_one_full_disk_ends_all_ranks_with_its_message(tiny_data_dir, tmp_path, looked):
    words = train_words(
        tiny_data_dir, tmp_path, max_update=4, disable_validation=True, save_interval_updates=1,
        disk_reserve=None if looked else -1,
    )  # fmt: skip
    ended = program_ranks("fairseq-train", words, before=fill_disk_of_last_rank)
    message = "saving at update 2 takes about" if looked else "the disk is full (.*rank 1: "
    for number, rank in enumerate(ended):
        assert rank.status not in (0, None), describe(ended)
        line = next(line for line in rank.output.splitlines() if "fairseq-train: error: " in line)
        assert line.startswith(f"rank {number}: ")
        assert message.partition("(")[0] in line and "checkpoints are as they were" in line
        assert "Traceback" not in rank.output
    assert {path.name for path in tmp_path.glob("*.pt*")} == {"checkpoint_1_1.pt", "checkpoint_last.pt"}
    for path in tmp_path.glob("*.pt"):
        verify(path)
    assert len(list((tmp_path / "experts").iterdir())) == 1
