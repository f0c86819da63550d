"""Files are read without running what they hold, unless the user trusts that very file."""

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch

from fairseq_mhmoe.checkpoint import DamagedCheckpoint, ForeignCheckpoint, load, reference_of, verify

from .states import flip, make_state, same, save


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (Path(self.file),)


class Settings:
    """A type of this test, which no reader knows."""


@pytest.fixture
def trap(tmp_path):
    """A checkpoint whose loading would create a file, and that file."""
    torch.save({"model": {}, "trap": Trap(tmp_path / "executed")}, tmp_path / "checkpoint.pt")
    return tmp_path / "checkpoint.pt", tmp_path / "executed"


@pytest.mark.parametrize("mmap", [False, True])
def test_states_come_back_bit_for_bit(tmp_path, mmap):
    state = make_state(dtype=torch.bfloat16)
    assert same(load(save(tmp_path, state, 1), mmap=mmap), state)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused_and_not_run(tmp_path, legacy):
    path, executed = tmp_path / "checkpoint.pt", tmp_path / "executed"
    torch.save({"trap": Trap(executed)}, path, _use_new_zipfile_serialization=not legacy)
    for read in (load, reference_of, verify):
        with pytest.raises(ForeignCheckpoint, match="MHMOE_TRUST_CHECKPOINT=.*checkpoint.pt") as caught:
            read(path)
        assert caught.value.file == str(path)
    assert not executed.exists()


def test_the_type_that_is_not_allowed_is_named(tmp_path):
    torch.save({"settings": Settings()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ForeignCheckpoint, match=r"it holds .*test_loading\.Settings\. If you trust"):
        load(tmp_path / "checkpoint.pt")


def test_a_trusted_file_is_read_with_a_warning(trap, monkeypatch, caplog):
    path, executed = trap
    monkeypatch.setenv("MHMOE_TRUST_CHECKPOINT", str(path))
    assert load(path)["model"] == {}
    assert executed.exists()
    assert "code in this file may run" in caplog.text


def test_trust_in_one_file_is_not_trust_in_another(trap, monkeypatch, tmp_path):
    path, executed = trap
    other = tmp_path / "other.pt"
    other.write_bytes(path.read_bytes())
    for trusted in (other, tmp_path, ""):
        monkeypatch.setenv("MHMOE_TRUST_CHECKPOINT", str(trusted))
        with pytest.raises(ForeignCheckpoint):
            load(path)
    assert not executed.exists()


def test_a_damaged_file_with_code_is_called_damaged(trap):
    path, executed = trap
    flip(path, path.read_bytes().index(b"touch"))
    with pytest.raises(DamagedCheckpoint):
        load(path)
    assert not executed.exists()


def test_files_of_old_torch_are_read(tmp_path):
    state = make_state()
    torch.save(state, tmp_path / "checkpoint.pt", _use_new_zipfile_serialization=False)
    verify(tmp_path / "checkpoint.pt")
    assert same(load(tmp_path / "checkpoint.pt", mmap=True), state)


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, os.strerror(errno.EMFILE)), RuntimeError("can't allocate memory"), MemoryError()]
)
def test_a_machine_without_room_is_no_damage(tmp_path, monkeypatch, error):
    path = save(tmp_path, make_state(), 1)

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(type(error)) as caught:
        load(path)
    assert caught.value is error


@pytest.mark.parametrize("error", [DamagedCheckpoint("a.pt", "is cut"), ForeignCheckpoint("a.pt", "os.system")])
def test_errors_can_be_sent_to_other_ranks(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.file) == (type(error), str(error), "a.pt")
