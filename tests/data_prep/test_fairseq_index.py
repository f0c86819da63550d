"""Documents in fairseq's mmap format."""

import base64
import json

import numpy as np
import pytest
import torch
from fairseq.data.indexed_dataset import MMapIndexedDataset, MMapIndexedDatasetBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import fairseq_index
from data_prep.fairseq_index import FairseqIndexStep, IndexWriter, batches, merge_shards, token_dtype
from data_prep.tokenizers import load_tokenizer
from data_prep.vocabulary import train_sentencepiece

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
@settings(max_examples=30)
def test_what_was_written_is_read(tmp_path_factory, documents):
    prefix = tmp_path_factory.mktemp("index") / "train"
    write(prefix, documents)
    assert read(prefix) == documents


def test_large_vocabularies_are_read(tmp_path):
    write(tmp_path / "train", [[70_000, 2], [249_999, 2]], token_dtype(250_000))
    assert read(tmp_path / "train") == [[70_000, 2], [249_999, 2]]


@given(documents=st.lists(st.lists(st.integers(0, 65499), max_size=9), max_size=9), large=st.booleans())
@settings(max_examples=30)
def test_bytes_are_those_of_fairseqs_builder(tmp_path_factory, documents, large):
    folder = tmp_path_factory.mktemp("index")
    dtype = np.int32 if large else np.uint16
    builder = MMapIndexedDatasetBuilder(str(folder / "theirs.bin"), dtype=dtype)
    for tokens in documents:
        builder.add_item(torch.tensor(tokens, dtype=torch.long))
    builder.finalize(str(folder / "theirs.idx"))
    write(folder / "ours", [np.array(tokens, dtype=np.int64) for tokens in documents], dtype)
    for ending in ("bin", "idx"):
        assert (folder / f"ours.{ending}").read_bytes() == (folder / f"theirs.{ending}").read_bytes()


@given(documents=DOCUMENTS, cut=st.integers(0, 10))
@settings(max_examples=30)
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


def test_sizes_are_passed_on_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(fairseq_index, "SIZES_AT_ONCE", 2)
    documents = [[number] * (number % 4) + [2] for number in range(7)]
    write(tmp_path / "0", documents)
    merge_shards([tmp_path / "0", tmp_path / "0"], tmp_path / "twice", np.uint16)
    assert read(tmp_path / "twice") == documents * 2


@pytest.mark.parametrize(
    "content, message",
    [(b"", "is no mmap index of uint16"), (b"x" * 80, "is no mmap index of uint16"), (None, "is truncated")],
)
def test_a_damaged_shard_is_an_error_and_leaves_nothing(tmp_path, content, message):
    write(tmp_path / "0", [[5, 2], [6, 2]])
    index = tmp_path / "0.idx"
    index.write_bytes(index.read_bytes()[:26] if content is None else content)
    with pytest.raises(ValueError, match=f"0.idx {message}.*run again"):
        merge_shards([tmp_path / "0"], tmp_path / "train", np.uint16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.bin", "0.idx"]


def test_a_shard_of_another_type_is_an_error(tmp_path):
    write(tmp_path / "0", [[5, 2]], np.int32)
    with pytest.raises(ValueError, match="0.idx is no mmap index of uint16"):
        merge_shards([tmp_path / "0"], tmp_path / "train", np.uint16)


def test_batches_end_after_many_documents_or_many_characters(monkeypatch):
    monkeypatch.setattr(fairseq_index, "WINDOW", 10)
    texts = ["a"] * 70 + ["b" * 30, "c"] + ["d" * 6] * 3
    assert [len(batch) for batch in batches(iter(["a"] * 9 + texts[70:]))] == [10, 3, 1]
    monkeypatch.setattr(fairseq_index, "WINDOW", 1000)
    assert [len(batch) for batch in batches(iter(texts))] == [64, 11]


def write_texts(folder, source_split, task, texts):
    path = folder / source_split / f"{task:05d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text, "id": "0"}) + "\n" for text in texts), encoding="utf-8")


def test_a_task_indexes_its_own_file_of_every_source_and_split(tmp_path, write_articles):
    model = tmp_path / "spm.model"
    model.write_bytes(train_sentencepiece([markup for _, _, markup in write_articles(40)], vocab_size=340))
    texts = {"en/train": ["the river", "an \u00e9glise"], "en/valid": ["of a city"], "de/train": []}
    for source_split, part in texts.items():
        write_texts(tmp_path / "text", source_split, 3, part)
    write_texts(tmp_path / "text", "en/train", 1, ["of another task"])
    step = FairseqIndexStep(tmp_path / "text", tmp_path / "index", model)
    step.run(rank=3)
    step.run(rank=2)
    made = sorted(str(path.relative_to(tmp_path / "index")) for path in tmp_path.glob("index/*/*/*"))
    assert made == [f"{name}/00003.{ending}" for name in sorted(texts) for ending in ("bin", "idx")]
    tokenizer = load_tokenizer(model)
    for source_split in ("en/train", "en/valid"):
        items = read(tmp_path / "index" / source_split / "00003")
        assert items == [[*ids.tolist(), 2] for ids in tokenizer.encode(texts[source_split])]
        counted = step.stats.stats
        assert counted[f"{source_split}/documents"].total == len(items)
        assert counted[f"{source_split}/tokens"].total == sum(map(len, items))
        assert counted[f"{source_split}/bytes"].total == sum(len(text.encode()) for text in texts[source_split])
    # an empty one can be merged too
    merge_shards([tmp_path / "index" / name / "00003" for name in texts], tmp_path / "all", np.uint16)
    assert len(read(tmp_path / "all")) == 3


def test_ranks_beyond_sixteen_bits_take_four_bytes(tmp_path):
    tokens = [bytes([byte]) for byte in range(256)] + [b"%08d" % number for number in range(65_500 - 256 - 4)]
    path = tmp_path / "large.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    write_texts(tmp_path / "text", "en/train", 0, ["abc"])
    FairseqIndexStep(tmp_path / "text", tmp_path / "index", path).run()
    assert (tmp_path / "index/en/train/00000.bin").stat().st_size == 4 * 4
    assert read(tmp_path / "index/en/train/00000") == [[4 + 97, 4 + 98, 4 + 99, 2]]
