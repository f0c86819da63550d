"""Documents in fairseq's mmap format."""

import numpy as np
import pytest
from fairseq.data.indexed_dataset import MMapIndexedDataset
from hypothesis import given
from hypothesis import strategies as st

from data_prep.fairseq_index import IndexWriter, merge_shards, token_dtype

DOCUMENTS = st.lists(st.lists(st.integers(0, 65499), min_size=1, max_size=20), min_size=1, max_size=10)


def write(prefix, documents, dtype=np.uint16):
    with IndexWriter(prefix, dtype) as writer:
        for tokens in documents:
            writer.add(np.array(tokens))


def read(prefix):
    dataset = MMapIndexedDataset(str(prefix))
    return [dataset[index].tolist() for index in range(len(dataset))]


@pytest.mark.parametrize("size, dtype", [(300, np.uint16), (65499, np.uint16), (65500, np.int32), (250_000, np.int32)])
def test_tokens_take_two_bytes_where_they_fit(size, dtype):
    assert token_dtype(size) is dtype
    assert size - 1 <= np.iinfo(dtype).max


@given(documents=DOCUMENTS)
def test_what_was_written_is_read(tmp_path_factory, documents):
    prefix = tmp_path_factory.mktemp("index") / "train"
    write(prefix, documents)
    assert read(prefix) == documents


def test_large_vocabularies_are_read(tmp_path):
    write(tmp_path / "train", [[70_000, 2], [249_999, 2]], token_dtype(250_000))
    assert read(tmp_path / "train") == [[70_000, 2], [249_999, 2]]


@given(documents=DOCUMENTS, cut=st.integers(0, 10))
def test_shards_make_the_same_bytes_as_one_writer(tmp_path_factory, documents, cut):
    folder = tmp_path_factory.mktemp("index")
    write(folder / "whole", documents)
    write(folder / "0", documents[:cut])
    write(folder / "1", documents[cut:])
    merge_shards([folder / "0", folder / "1"], folder / "merged", np.uint16)
    for ending in ("bin", "idx"):
        assert (folder / f"merged.{ending}").read_bytes() == (folder / f"whole.{ending}").read_bytes()


def test_an_error_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError), IndexWriter(tmp_path / "train", np.uint16) as writer:
        writer.add(np.array([1, 2]))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
