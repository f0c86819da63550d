"""Expert folders live as long as a checkpoint names them."""

import os
import re

import pytest

from fairseq_mhmoe.checkpoint import (
    checkpoints_newest_first,
    copy_atomically,
    load_merged,
    new_expert_folder,
    num_updates_of,
    reference_of,
    remove_unnamed_experts,
)

from .states import make_state, save


def folders(save_dir):
    return sorted(f"experts/{folder.name}" for folder in (save_dir / "experts").iterdir())


def test_what_a_checkpoint_names_stays(tmp_path):
    paths = [save(tmp_path, make_state(seed=seed), 2, f"checkpoint{seed}.pt") for seed in (1, 2)]
    assert remove_unnamed_experts(tmp_path) == []
    assert folders(tmp_path) == sorted(reference_of(path)["folder"] for path in paths)


def test_what_nobody_names_goes(tmp_path):
    old, new = [save(tmp_path, make_state(seed=seed), 2, f"checkpoint{seed}.pt") for seed in (1, 2)]
    gone, kept = reference_of(old)["folder"], reference_of(new)["folder"]
    old.unlink()
    assert remove_unnamed_experts(tmp_path) == [gone]
    assert folders(tmp_path) == [kept]
    load_merged(new)


def test_a_copy_keeps_the_folder_that_it_shares(tmp_path):
    path = save(tmp_path, make_state(), 2, "checkpoint1.pt")
    copy_atomically(path, tmp_path / "checkpoint_best.pt")
    path.unlink()
    assert remove_unnamed_experts(tmp_path) == []
    load_merged(tmp_path / "checkpoint_best.pt")


def test_a_save_that_was_not_committed_goes(tmp_path):
    path = save(tmp_path, make_state(), 2)
    gone = reference_of(path)["folder"]
    path.rename(tmp_path / "checkpoint_last.pt.tmp")
    assert remove_unnamed_experts(tmp_path) == [gone]


@pytest.mark.parametrize("name", ["checkpoint2.pt", "crash.pt", "checkpoint2.pt.old"])
def test_a_file_that_cannot_be_read_protects_all(tmp_path, caplog, name):
    save(tmp_path, make_state(), 2).unlink()
    (tmp_path / name).write_bytes(b"half a file")
    assert remove_unnamed_experts(tmp_path) == []
    assert len(folders(tmp_path)) == 1
    assert "no folder of experts is deleted" in caplog.text and name in caplog.text


def test_a_file_known_as_damaged_protects_what_it_names(tmp_path):
    path = save(tmp_path, make_state(), 2)
    named = reference_of(path)["folder"]
    path.rename(tmp_path / "checkpoint_last.pt.damaged")
    (tmp_path / "checkpoint3.pt.damaged").write_bytes(b"half a file")
    gone = reference_of(save(tmp_path, make_state(seed=3), 2))["folder"]
    (tmp_path / "checkpoint_last.pt").unlink()
    assert remove_unnamed_experts(tmp_path) == [gone]
    assert folders(tmp_path) == [named]


def test_only_folders_of_this_program_are_deleted(tmp_path):
    for name in ("notes", "u12-short"):
        (tmp_path / "experts" / name).mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    (tmp_path / "experts" / "u00000001-00000000").symlink_to(tmp_path / "kept")
    assert remove_unnamed_experts(tmp_path) == []
    assert (tmp_path / "kept").exists()


def test_one_folder_alone(tmp_path):
    for seed in (1, 2):
        save(tmp_path, make_state(seed=seed), 2, f"checkpoint{seed}.pt").unlink()
    first, second = folders(tmp_path)
    assert remove_unnamed_experts(tmp_path, only=first) == [first]
    assert folders(tmp_path) == [second]


def test_a_folder_without_experts(tmp_path):
    save(tmp_path, make_state(), 1)
    assert remove_unnamed_experts(tmp_path) == []


def test_newest_first(tmp_path, caplog):
    names = {"checkpoint_1_10.pt": 10, "checkpoint_2_30.pt": 30, "checkpoint_2_20.pt": 20, "checkpoint_last.pt": 30}
    for place, (name, updates) in enumerate(names.items()):
        os.utime(save(tmp_path, make_state(updates=updates), 1, name), (1000 + place, 1000 + place))
    (tmp_path / "checkpoint_3_40.pt").write_bytes(b"half a file")
    (tmp_path / "checkpoint_3_50.pt.tmp").write_bytes(b"half a file")
    expected = ["checkpoint_last.pt", "checkpoint_2_30.pt", "checkpoint_2_20.pt", "checkpoint_1_10.pt"]
    assert [path.name for path in checkpoints_newest_first(tmp_path)] == expected
    assert "left out" in caplog.text and "checkpoint_3_40.pt" in caplog.text


def test_names_of_folders():
    assert re.fullmatch(r"experts/u00000010-[0-9a-f]{8}", new_expert_folder(10))
    assert new_expert_folder(10) != new_expert_folder(10)


def test_a_state_that_does_not_tell_its_updates_is_the_oldest():
    assert num_updates_of({"optimizer_history": []}) == num_updates_of({}) == -1
