"""What any number of ranks wrote, any number reads, bit for bit, and takes no more into memory than it needs."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_mhmoe.checkpoint import (
    DamagedCheckpoint,
    load_merged,
    read_experts,
    reference_of,
    take_experts,
    verify,
    write_dense,
    write_manifest,
    write_shard,
)

from .states import INDICES, NAMES, SECTIONS, flip, make_state, same, save, shards_of

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@st.composite
def resharding(draw):
    experts = draw(st.integers(1, 12))
    divisors = [size for size in range(1, experts + 1) if experts % size == 0]
    return experts, draw(st.sampled_from(divisors)), draw(st.sampled_from(divisors))


@settings(max_examples=60)
@given(sizes=resharding(), sections=st.sets(st.sampled_from(SECTIONS)), dtype=st.sampled_from(DTYPES))
def test_ranks_of_any_size_read_what_any_size_wrote(sizes, sections, dtype):
    experts, size_saved, size_loaded = sizes
    state = make_state(experts, dtype, sections)
    _, expected = take_experts(state, NAMES, INDICES)
    with TemporaryDirectory() as folder:
        path = save(Path(folder), state, size_saved)
        assert same(load_merged(path), state)
        reference = reference_of(path)
        if size_saved == 1:
            assert reference is None
            return
        ranks = [read_experts(path, reference, rank, size_loaded) for rank in range(size_loaded)]
    joined = {
        section: {key: torch.cat([rank[section][key] for rank in ranks]) for key in part}
        for section, part in expected.items()
    }
    assert same(joined, expected)


def test_three_ranks_read_what_two_wrote(tmp_path):
    state = make_state(6)
    path = save(tmp_path, state, 2)
    rows = read_experts(path, reference_of(path), 1, 3)["model"][NAMES[0]]
    assert same(rows, state["model"][NAMES[0]][2:4])


def test_a_size_that_does_not_divide_is_refused(tmp_path):
    path = save(tmp_path, make_state(4), 2)
    with pytest.raises(ValueError, match=r"4 experts .* can't be split over 3 ranks"):
        read_experts(path, reference_of(path), 0, 3)


def test_a_rank_takes_only_its_rows_into_memory(tmp_path):
    peak = Path("/proc/self/clear_refs")
    if not peak.exists():
        pytest.skip("the system does not tell the peak of memory")
    megabytes = 64
    folder = tmp_path / "experts" / "u00000001-00000000"
    half = {"model": {"w": torch.zeros(8, megabytes // 16, 1 << 18, dtype=torch.float16)}}
    reference = write_manifest(folder, [write_shard(folder, rank, 2, half) for rank in range(2)], {})
    write_dense({"mhmoe_experts": reference}, tmp_path / "checkpoint.pt")
    del half

    def memory(name):
        return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) / 1024

    peak.write_text("5")  # resets VmHWM
    before = memory("VmRSS")
    mine = read_experts(tmp_path / "checkpoint.pt", reference, 5, 16)
    # one of 16 ranks needs 4 of the 64 MiB; mapped and copied they count twice
    assert mine["model"]["w"].shape == (1, megabytes // 16, 1 << 18)
    assert memory("VmHWM") - before < 16


@pytest.mark.parametrize("size", [1, 2])
def test_whole_checkpoints_are_verified_by_any_number_of_processes(tmp_path, size):
    path = save(tmp_path, make_state(), size)
    for parts in (1, 2, 3):
        for part in range(parts):
            verify(path, part, parts)


def test_processes_share_the_shards(tmp_path):
    path = save(tmp_path, make_state(), 4)
    flip(shards_of(path)[2], 700)
    for part in (0, 1):
        verify(path, part, 3)
    with pytest.raises(DamagedCheckpoint):
        verify(path, 2, 3)


def test_what_one_rank_wrote_by_itself_is_not_merged(tmp_path):
    write_dense({"model": {}, "mhmoe_experts_left_out": True}, tmp_path / "crash.pt")
    with pytest.raises(ValueError, match="crash.pt .* holds no experts"):
        load_merged(tmp_path / "crash.pt")
