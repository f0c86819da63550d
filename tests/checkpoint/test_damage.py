"""Damage of every kind is refused with the file and the reason; nothing half is ever loaded."""

import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairseq_mhmoe.checkpoint import DamagedCheckpoint, load, load_merged, read_experts, reference_of, verify

from .states import flip, make_state, same, save, shards_of

SOME = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path):
    return save(tmp_path, make_state(), 2)


def manifest_of(path):
    return next((path.parent / "experts").glob("*/manifest.json"))


def refused(path, file, reason):
    """Both ways to the experts are closed: checking them, and merging them."""
    for read in (verify, load_merged):
        with pytest.raises(DamagedCheckpoint, match=reason) as caught:
            read(path)
        assert caught.value.file == str(file)
        assert str(file) in str(caught.value) and "--restore-file" in str(caught.value)


@SOME
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_changed_byte_of_a_shard(path, place, mask):
    shard = shards_of(path)[1]
    whole = shard.read_bytes()
    flip(shard, int(place * len(whole)), mask)
    refused(path, shard, "its hash is not the manifest's")
    shard.write_bytes(whole)


@SOME
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_changed_byte_of_a_manifest(path, place, mask):
    manifest = manifest_of(path)
    whole = manifest.read_bytes()
    flip(manifest, int(place * len(whole)), mask)
    refused(path, manifest, "was changed or is of another checkpoint")
    manifest.write_bytes(whole)


@SOME
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_changed_byte_of_a_dense_file_is_refused_or_changes_nothing(path, place, mask):
    whole = path.read_bytes()
    content = load(path)
    flip(path, int(place * len(whole)), mask)
    try:
        verify(path)
    except DamagedCheckpoint as error:
        assert error.file == str(path)
    else:
        # dates and padding of the archive carry nothing
        assert same(load(path), content)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("size", [1, 2])
def test_a_changed_weight_in_a_dense_file(tmp_path, size):
    state = make_state()
    state["model"]["decoder.layer_norm.weight"] = torch.tensor([1.25, 2.5, 5.0])
    path = save(tmp_path, state, size)
    weight = state["model"]["decoder.layer_norm.weight"].numpy().tobytes()
    flip(path, path.read_bytes().index(weight), 1)
    refused(path, path, "the checksum of its part .*/data/.* is wrong")


def test_a_part_marked_as_a_folder(path):
    # the mark is in no checksum, and torch would return a tensor of whatever is in memory
    listed = path.read_bytes().rindex(b"PK\x01\x02")
    flip(path, listed + 38, 0x10)
    refused(path, path, "is marked as a folder")


@SOME
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_dense_file(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path, path, "is cut or damaged|is not a checkpoint, or damaged")
    path.write_bytes(whole)


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_a_cut_shard_is_seen_without_reading_it(path, share):
    shard = shards_of(path)[0]
    shard.write_bytes(shard.read_bytes()[: int(share * shard.stat().st_size)])
    refused(path, shard, r"has \d+ bytes, its manifest says \d+")
    with pytest.raises(DamagedCheckpoint, match="bytes, its manifest says"):
        read_experts(path, reference_of(path))


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_shard(path, number):
    shard = shards_of(path)[number]
    shard.unlink()
    refused(path, shard, "is missing")


def test_shards_swapped_between_two_checkpoints(tmp_path):
    first = save(tmp_path, make_state(seed=1), 2, "checkpoint1.pt")
    second = save(tmp_path, make_state(seed=2), 2, "checkpoint2.pt")
    shards = [tmp_path / reference_of(path)["folder"] / "experts-00000-of-00002.pt" for path in (first, second)]
    contents = [shard.read_bytes() for shard in shards]
    assert len(contents[0]) == len(contents[1])
    for shard, content in zip(shards, contents[::-1]):
        shard.write_bytes(content)
    for path, shard in zip((first, second), shards):
        refused(path, shard, "its hash is not the manifest's")
        # even a reader who skips the hashes sees it
        with pytest.raises(DamagedCheckpoint, match="belongs to another checkpoint"):
            read_experts(path, reference_of(path))


def test_shards_of_one_checkpoint_swapped(path):
    first, second = shards_of(path)
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])
    refused(path, first, "its hash is not the manifest's")
    with pytest.raises(DamagedCheckpoint, match="belongs to another checkpoint"):
        read_experts(path, reference_of(path))


def test_the_manifest_of_another_run(path, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(manifest_of(save(other, make_state(seed=5), 2)), manifest_of(path))
    refused(path, manifest_of(path), "was changed or is of another checkpoint")


def test_an_edited_manifest(path):
    manifest = json.loads(manifest_of(path).read_text())
    manifest["description"]["num_updates"] += 1
    manifest_of(path).write_text(json.dumps(manifest))
    refused(path, manifest_of(path), "was changed or is of another checkpoint")


def test_a_missing_manifest(path):
    manifest = manifest_of(path)
    manifest.unlink()
    refused(path, manifest, "is missing")


def test_a_dense_file_moved_without_its_experts(path, tmp_path):
    moved = tmp_path / "elsewhere" / "checkpoint_best.pt"
    moved.parent.mkdir()
    path.rename(moved)
    refused(moved, moved.parent / shards_of(path)[0].parent.relative_to(tmp_path), "must lie beside it")


def test_something_else_than_a_checkpoint(tmp_path):
    file = tmp_path / "checkpoint.pt"
    file.write_text("hello\n")
    refused(file, file, "is not a checkpoint")


@pytest.mark.parametrize("folder", ["../u00000010-00000000", "/tmp", "experts/..", "experts/u00000010-0000000g", None])
def test_a_reference_that_leads_elsewhere_is_not_followed(tmp_path, folder):
    path = tmp_path / "checkpoint.pt"
    torch.save({"mhmoe_experts": {"format": 1, "folder": folder, "manifest_sha256": "0"}}, path)
    refused(path, path, "which this program does not write")


def test_a_later_format_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"mhmoe_experts": {"format": 2}}, path)
    refused(path, path, "in a format other than 1")
