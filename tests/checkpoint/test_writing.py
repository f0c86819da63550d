"""A file is old or new at any moment, an error says which file and why, and leaves nothing behind."""

import errno
import hashlib
import json
import os
import resource

import pytest
import torch

from fairseq_mhmoe.checkpoint import copy_atomically, load, verify, write_dense, write_manifest, write_shard, writing

from .states import make_state, same, save

EXPERTS = {"model": {"w": torch.arange(8.0).reshape(2, 4)}}


@pytest.fixture
def files_up_to():
    """files_up_to(n): from here to the end of the test a file that grows beyond n bytes is like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def writers(folder):
    """Each way to write a big file, and the file."""
    big = {"model": {"w": torch.zeros(2, 100_000)}}
    source = folder.parent / "source.pt"
    torch.save(big, source)
    shards = folder / "experts" / "u00000001-00000000"
    return {
        "dense": (lambda: write_dense(big, folder / "checkpoint.pt"), folder / "checkpoint.pt"),
        "copy": (lambda: copy_atomically(source, folder / "checkpoint_best.pt"), folder / "checkpoint_best.pt"),
        "shard": (lambda: write_shard(shards, 0, 2, big), shards / "experts-00000-of-00002.pt"),
        "manifest": (
            lambda: write_manifest(shards, [{**write_shard(shards, 0, 1, EXPERTS)}], {"note": "x" * 500_000}),
            shards / "manifest.json",
        ),
    }


@pytest.mark.parametrize("kind", ["dense", "copy", "shard", "manifest"])
def test_a_full_disk(tmp_path, files_up_to, kind):
    folder = tmp_path / "run"
    folder.mkdir()
    write, file = writers(folder)[kind]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"the file before")
    files_up_to(300_000)
    with pytest.raises(OSError) as caught:
        write()
    assert caught.value.errno == errno.EFBIG
    assert str(file) in str(caught.value) and "File too large" in str(caught.value)
    assert file.read_bytes() == b"the file before"
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("kind", ["dense", "copy", "shard", "manifest"])
def test_a_file_in_place_of_the_folder(tmp_path, kind):
    (tmp_path / "run").write_text("not a folder")
    write, file = writers(tmp_path / "run")[kind]
    with pytest.raises(OSError, match="Not a directory|File exists") as caught:
        write()
    assert str(tmp_path / "run") in str(caught.value)


@pytest.mark.parametrize("kind", ["dense", "copy", "shard", "manifest"])
def test_a_folder_that_can_only_be_read(tmp_path, kind):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder = tmp_path / "run"
    folder.mkdir()
    write, file = writers(folder)[kind]
    folder.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match=str(folder)):
            write()
        assert not list(folder.iterdir())
    finally:
        folder.chmod(0o700)


def test_an_interrupted_write_leaves_nothing_behind(tmp_path):
    def interrupted(*args):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writing._write(tmp_path / "checkpoint.pt", interrupted)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["dense", "fsync", "commit"])
def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path, stage):
    old, new = make_state(seed=1), make_state(seed=2)
    path = save(tmp_path, old, 1)
    child = os.fork()
    if child == 0:
        # ends like a killed process: nothing is cleaned up
        writing.reached = lambda reached: os._exit(9) if reached == stage else None
        if stage == "fsync":
            os.replace = lambda *names: os._exit(9)
        write_dense(new, path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    verify(path)
    assert same(load(path), new if stage == "commit" else old)
    write_dense(new, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # what the kill left was written over


def test_the_entry_of_a_shard_is_true(tmp_path):
    entry = write_shard(tmp_path / "experts" / "u1", 1, 2, EXPERTS)
    content = (tmp_path / "experts" / "u1" / entry["file"]).read_bytes()
    assert entry == {
        "file": "experts-00001-of-00002.pt",
        "rank": 1,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "parameters": {"model": {"w": {"shape": [2, 4], "dtype": "float32"}}},
    }


def test_only_the_rows_of_a_view_are_written(tmp_path):
    whole = torch.zeros(1000, 1000)
    assert write_shard(tmp_path / "u1", 0, 1, {"model": {"w": whole[:1]}})["bytes"] < 10_000


def test_a_manifest_tells_shapes_over_all_ranks(tmp_path):
    folder = tmp_path / "experts" / "u00000007-0123abcd"
    entries = [write_shard(folder, rank, 2, EXPERTS) for rank in (1, 0)]
    reference = write_manifest(folder, entries, {"num_updates": 7})
    content = (folder / "manifest.json").read_bytes()
    manifest = json.loads(content)
    assert reference == {
        "format": 1,
        "folder": "experts/u00000007-0123abcd",
        "manifest_sha256": hashlib.sha256(content).hexdigest(),
    }
    assert manifest["parameters"] == {"model": {"w": {"shape": [4, 4], "dtype": "float32"}}}
    assert manifest["description"] == {"num_updates": 7} and manifest["size"] == 2
    assert [shard["rank"] for shard in manifest["shards"]] == [0, 1]
    assert all(set(shard) == {"file", "rank", "bytes", "sha256"} for shard in manifest["shards"])


def test_a_rank_that_wrote_nothing_is_missed(tmp_path):
    with pytest.raises(ValueError, match=r"shards of ranks \[1\], expected 0 to 0"):
        write_manifest(tmp_path, [write_shard(tmp_path, 1, 2, EXPERTS)], {})


def test_ranks_with_different_models_are_refused(tmp_path):
    others = {"model": {"w": torch.zeros(1, 4)}}
    entries = [write_shard(tmp_path, 0, 2, EXPERTS), write_shard(tmp_path, 1, 2, others)]
    with pytest.raises(ValueError, match="experts-00001-of-00002.pt has other names, shapes or types"):
        write_manifest(tmp_path, entries, {})


def test_a_copy_is_the_same_file(tmp_path):
    path = save(tmp_path, make_state(), 1)
    copy_atomically(path, tmp_path / "copy.pt")
    assert (tmp_path / "copy.pt").read_bytes() == path.read_bytes()


def test_a_copy_of_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pt"):
        copy_atomically(tmp_path / "nothing.pt", tmp_path / "copy.pt")
    assert not list(tmp_path.iterdir())
