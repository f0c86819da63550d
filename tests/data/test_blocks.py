"""Samples read by position are those of fairseq's TokenBlockDataset."""

import itertools
import os

import numpy as np
import pytest
import torch
from fairseq.data import TokenBlockDataset, data_utils
from hypothesis import given, settings
from hypothesis import strategies as st

import fairseq_mhmoe  # noqa: F401  makes fairseq's own class work with this numpy
from fairseq_mhmoe.data import blocks
from fairseq_mhmoe.data.blocks import Blocks, TokenStream

PAD, EOS = 1, 2
# not all documents end in eos; a source has up to three files
SHARDS = st.lists(
    st.lists(st.lists(st.integers(2, 49), min_size=2, max_size=14), min_size=1, max_size=6), min_size=1, max_size=3
)


def stock_blocks(prefix, block_size, break_mode):
    dataset = data_utils.load_indexed_dataset(str(prefix), None, "mmap", combine=True)
    return TokenBlockDataset(
        dataset, dataset.sizes, block_size, pad=PAD, eos=EOS, break_mode=break_mode, include_targets=True
    )


@settings(max_examples=30)
@given(shards=SHARDS, block_size=st.integers(2, 20), break_mode=st.sampled_from(["none", "complete", "eos"]))
def test_samples_are_fairseqs(tmp_path_factory, write_files, shards, block_size, break_mode):
    prefix = tmp_path_factory.mktemp("index") / "train"
    files = write_files(prefix, *shards)
    ours = Blocks(files, block_size, break_mode, eos=EOS, pad=PAD, with_past=True)
    stock = stock_blocks(prefix, block_size, break_mode)
    assert len(ours) == len(stock) and np.array_equal(ours.sizes, stock.sizes)
    for index in range(len(stock)):
        assert all(torch.equal(a, b) for a, b in zip(ours[index], stock[index], strict=True)), index


def test_complete_doc_leaves_out_single_tokens_as_fairseq_does(tmp_path, write_files):
    files = write_files(tmp_path / "train", [[5, 6, 2], [2], [7, 8, 2], [9, 2]])
    ours = Blocks(files, 4, "complete_doc", eos=EOS, pad=PAD)
    assert [ours[index][1].tolist() for index in range(len(ours))] == [[5, 6, 2], [7, 8, 2], [9, 2]]


@pytest.mark.parametrize("block_size", [1, 2, 3, 5, 64])
def test_every_token_is_a_target_once(tmp_path, write_files, block_size, monkeypatch):
    monkeypatch.setattr(blocks, "DOCUMENTS_AT_ONCE", 2)
    shards = [[[5, 6, 2], [2]], [[7, 2]], [[8, 9, 10, 11, 2], [3]]]
    ours = Blocks(write_files(tmp_path / "train", *shards), block_size, "none", eos=EOS, pad=PAD)
    targets = [token for index in range(len(ours)) for token in ours[index][1].tolist()]
    assert targets == [token for shard in shards for document in shard for token in document]
    sources = [token for index in range(len(ours)) for token in ours[index][0].tolist()]
    # all documents but the last end in eos, so that it stands before the next one either way
    assert sources == [EOS, *targets[:-1]]


def test_document_sizes_are_those_of_all_files(tmp_path, write_files):
    files = write_files(tmp_path / "train", [[5, 2], [6, 7, 2]], [[2]])
    assert Blocks(files, 4, "none", eos=EOS, pad=PAD).document_sizes().tolist() == [2, 3, 1]


@pytest.mark.parametrize("dtype, token", [(np.uint16, 65000), (np.int32, 100000)])
def test_types_of_tokens_are_read_as_int64(tmp_path, write_files, dtype, token):
    stream = TokenStream(write_files(tmp_path / "train", [[token, 5]], [[6]], dtype=dtype))
    assert stream.read(0, 3).tolist() == [token, 5, 6] and stream.read(1, 3).dtype == np.int64


def test_few_files_are_open_at_a_time(tmp_path, write_files):
    count = 2 * blocks.OPEN_FILES
    stream = TokenStream(write_files(tmp_path / "train", *([[number, 2]] for number in range(count))))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert stream.read(0, 2 * count).tolist() == list(itertools.chain(*([number, 2] for number in range(count))))
    assert len(os.listdir("/proc/self/fd")) <= before + blocks.OPEN_FILES


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path, write_files):
    [file] = write_files(tmp_path / "train", [[5, 6, 7, 2]])
    os.truncate(file.path, 6)
    with pytest.raises(ValueError, match="train.bin was cut while it was read: no tokens 2 to 4"):
        file.read(2, 4)
