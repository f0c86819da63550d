"""What is broken, missing or full around the checkpoints of two ranks, and that nothing good is lost over it."""

import hashlib
import shutil

import pytest

from fairseq_mhmoe.checkpoint.reading import load_merged, reference_of, verify

from .launcher import describe
from .watched_training import train_watched

OPTIONS = dict(optimizer="adam", lr=0.01, disable_validation=True, save_interval_updates=2)


@pytest.fixture(scope="module")
def trained(tiny_data_dir, tmp_path_factory):
    """Folder with checkpoints of updates 2 and 4, of two ranks."""
    folder = tmp_path_factory.mktemp("trained")
    train_watched(tiny_data_dir, folder, 2, max_update=4, **OPTIONS)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it to break."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def resume(tiny_data_dir):
    """resume(folder, **options) -> list of Ended of two ranks."""

    def start(save_dir, **options):
        return train_watched(tiny_data_dir, save_dir, 2, **{"max_update": 5, **OPTIONS, **options})

    return start


def hashes(folder):
    """{path: hash} of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shards_of(path):
    """The folder of a checkpoint's experts."""
    return path.parent / reference_of(path)["folder"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_shard_leads_to_the_checkpoint_before(folder, resume):
    shard = shards_of(folder / "checkpoint_last.pt") / "experts-00001-of-00002.pt"
    flip(shard)
    first = resume(folder)[0].output
    assert f"{folder}/checkpoint_last.pt is not complete: {shard} was changed" in first
    assert f"continuing from {folder}/checkpoint_1_2.pt instead" in first
    assert "checkpoint_last.pt (epoch 1 @ 2 updates)" in first
    # checkpoint_1_4.pt shared the shard; it was made anew after update 4
    for name in ("checkpoint_1_2.pt", "checkpoint_1_4.pt", "checkpoint_last.pt"):
        verify(folder / name)
    assert (folder / "checkpoint_last.pt.damaged").exists()
    assert shard.exists(), "what a file kept aside names is kept too"


def test_without_a_complete_checkpoint_nothing_is_trained_or_touched(folder, resume):
    for shard in folder.glob("experts/*/experts-00000-of-00002.pt"):
        shard.unlink()
    before = hashes(folder)
    ended = resume(folder, check=False)
    assert all(rank.status != 0 for rank in ended), describe(ended)
    assert "experts-00000-of-00002.pt: is missing, and" in ended[0].output
    assert "has no complete checkpoint; nothing was trained or changed" in ended[0].output
    assert hashes(folder) == before


def test_a_damaged_file_that_was_asked_for_is_not_replaced(folder, resume, tmp_path):
    (shards_of(folder / "checkpoint_last.pt") / "manifest.json").unlink()
    before = hashes(folder)
    ended = resume(tmp_path / "new", restore_file=folder / "checkpoint_1_4.pt", check=False)
    assert all(rank.status != 0 for rank in ended), describe(ended)
    assert "manifest.json: is missing" in ended[0].output
    assert hashes(folder) == before
    assert not list((tmp_path / "new").glob("*.pt"))


def test_a_checkpoint_elsewhere_is_continued(folder, resume, tmp_path):
    before = hashes(folder)
    output = resume(tmp_path / "new", restore_file=folder / "checkpoint_1_2.pt")[0].output
    assert "checkpoint_1_2.pt (epoch 1 @ 2 updates)" in output
    assert hashes(folder) == before
    assert load_merged(tmp_path / "new" / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] == 5


def test_a_checkpoint_copied_without_its_experts_says_so(folder, resume, tmp_path):
    alone = tmp_path / "alone.pt"
    shutil.copy(folder / "checkpoint_last.pt", alone)
    ended = resume(tmp_path / "new", restore_file=alone, check=False)
    assert all(rank.status != 0 for rank in ended), describe(ended)
    assert f"is missing: the experts of {alone} must lie beside it" in ended[0].output


def test_a_leftover_of_a_kill_is_never_loaded_and_removed_at_the_next_save(folder, resume):
    leftover = folder / "experts" / "u00000004-00000000"
    leftover.mkdir()
    (leftover / "experts-00000-of-00002.pt.tmp").write_bytes(b"half")
    (folder / "checkpoint_last.pt.tmp").write_bytes(b"half")
    resume(folder)
    assert not leftover.exists()
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_on_one_rank_ends_all_and_loses_nothing(folder, resume, rank):
    before = hashes(folder)
    ended = resume(folder, max_update=8, check=False, watch={"limit": [rank, 6000, 6]})
    assert all(one.status != 0 for one in ended), describe(ended)
    for one in ended:
        assert f"rank {rank}: " in one.output
        assert "File too large" in one.output
        assert f"experts-0000{rank}-of-00002.pt" in one.output
    assert hashes(folder) == before
    resume(folder, max_update=6)


def test_a_dense_file_that_does_not_fit_ends_all_and_loses_nothing(folder, resume):
    before = hashes(folder)
    ended = resume(folder, max_update=8, check=False, watch={"limit": [0, 30000, 6]})
    assert all(one.status != 0 for one in ended), describe(ended)
    assert all("checkpoint_1_6.pt" in one.output and "File too large" in one.output for one in ended)
    assert hashes(folder) == before


def test_deleted_checkpoints_take_their_experts_along(tiny_data_dir, tmp_path):
    train_watched(
        tiny_data_dir, tmp_path, 2, max_update=5,
        **{**OPTIONS, "save_interval_updates": 1, "keep_interval_updates": 2, "disable_validation": False},
        keep_best_checkpoints=1,
    )  # fmt: skip
    dense = sorted(path.name for path in tmp_path.glob("*.pt"))
    assert [name for name in dense if name.startswith("checkpoint_1_")] == ["checkpoint_1_4.pt", "checkpoint_1_5.pt"]
    named = {shards_of(tmp_path / name).name for name in dense}
    assert {path.name for path in (tmp_path / "experts").iterdir()} == named
    for name in dense:
        verify(tmp_path / name)


def test_a_crash_file_says_that_it_holds_no_experts(folder, resume, tiny_data_dir, tmp_path):
    ended = train_watched(tiny_data_dir, folder, 2, **{**OPTIONS, "lr": 1e30}, max_update=8, check=False)
    assert all(one.status != 0 for one in ended), describe(ended)
    assert (folder / "crash.pt").exists()
    with pytest.raises(ValueError, match="crash.pt .*holds no experts"):
        load_merged(folder / "crash.pt")
    refused = resume(tmp_path / "new", restore_file=folder / "crash.pt", check=False)
    assert all("holds no experts" in one.output for one in refused)
