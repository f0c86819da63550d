"""Text for an analysis: how budgets are split, blocks cut and packed, and which tokens of a folder or file come."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_prep.fairseq_index import IndexWriter
from fairseq_mhmoe.analysis.activation_text import chunks, cut, pack, shares_of, split_batches, text_batches
from fairseq_mhmoe.evaluation.loading import load_checkpoint

EOS, PAD = 2, 1


@given(st.integers(0, 200), st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_a_budget_is_split_exactly_and_in_proportion(total, sizes):
    shares = shares_of(total, sizes)
    assert sum(shares) == min(total, sum(sizes))
    for share, size in zip(shares, sizes, strict=True):
        assert share <= size
        assert abs(share - size * min(1.0, total / max(sum(sizes), 1))) < 1


@given(st.lists(st.integers(1, 7), max_size=6), st.integers(0, 30), st.integers(1, 4))
def test_rows_are_cut_after_exactly_so_many_tokens(lengths, tokens, size):
    rows = list(torch.arange(sum(lengths)).split(lengths)) if lengths else []
    groups = list(chunks(cut(rows, tokens), size))
    assert all(len(group) == size for group in groups[:-1]) and all(groups)
    assert [number for group in groups for row in group for number in row.tolist()] == list(
        range(min(tokens, sum(lengths)))
    )


@given(st.lists(st.integers(1, 9), max_size=6), st.integers(1, 5), st.sampled_from([None, 99]))
def test_documents_fill_rows_without_gaps(lengths, length, bos):
    documents = torch.arange(sum(lengths)).split(lengths) if lengths else []
    rows = [row.tolist() for row in pack(documents, length, bos)]
    if bos is not None:
        assert all(row[0] == 99 for row in rows)
        rows = [row[1:] for row in rows]
    assert all(len(row) == length for row in rows[:-1]) and all(rows)
    assert [number for row in rows for number in row] == list(range(sum(lengths)))


@pytest.fixture
def loaded(tiny_checkpoint, tiny_data_dir):
    return load_checkpoint(tiny_checkpoint("smoe"), tiny_data_dir, "cpu", {"tokens_per_sample": 16})


def stream(batches):
    """The tokens of batches without pads, and the sources they came from."""
    batches = list(batches)
    assert [batch.count for batch in batches] == [int((batch.tokens != PAD).sum()) for batch in batches]
    assert [batch.done for batch in batches] == sorted(batch.done for batch in batches)
    tokens = [row[row != PAD].tolist() for batch in batches for row in batch.tokens]
    return sum(tokens, []), list(dict.fromkeys(batch.source for batch in batches))


def split_by_hand(loaded, split="valid"):
    """Input of the model over a split: every document behind an eos, without its own."""
    loaded.task.load_dataset(split)
    targets = torch.cat([item["target"] for item in loaded.task.dataset(split)])
    return [EOS, *targets.tolist()[:-1]]


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_a_split_comes_whole_and_in_order(loaded, batch_size):
    names, batches = split_batches(loaded, "valid", batch_size)
    tokens, sources = stream(batches)
    assert tokens == split_by_hand(loaded) and sources == names and len(names) == 1


@pytest.mark.parametrize("limit", [1, 16, 37])
def test_max_tokens_is_exact_whatever_the_batches(loaded, limit):
    expected = split_by_hand(loaded)[:limit]
    for batch_size in (1, 5):
        batches = list(split_batches(loaded, "valid", batch_size, limit)[1])
        assert stream(batches)[0] == expected and batches[-1].done == 1


def test_several_sources_come_in_turn_and_in_proportion(tiny_checkpoint, tiny_data_dir, tmp_path):
    (tmp_path / "dict.txt").write_text((tiny_data_dir / "dict.txt").read_text())
    documents = {"de": [[10, 11, 12, EOS]] * 10, "en": [[20, 21, EOS], [22, EOS]] * 4}  # 40 and 20 tokens
    for source, content in documents.items():
        (tmp_path / source).mkdir()
        with IndexWriter(tmp_path / source / "valid", np.uint16) as writer:
            for document in content:
                writer.add(np.array(document))
    loaded = load_checkpoint(tiny_checkpoint("smoe"), tmp_path, "cpu")
    names, batches = split_batches(loaded, "valid", 2)
    assert names == ["de", "en"]
    tokens, sources = stream(batches)
    assert tokens == [EOS, 10, 11, 12] * 10 + [EOS, 20, 21, EOS, 22] * 4 and sources == names
    tokens, _ = stream(split_batches(loaded, "valid", 2, max_tokens=15)[1])
    assert tokens == ([EOS, 10, 11, 12] * 3)[:10] + [EOS, 20, 21, EOS, 22]
    names, batches = split_batches(loaded, "en/valid", 2)
    assert names == ["en"] and stream(batches)[0] == [EOS, 20, 21, EOS, 22] * 4


def test_a_file_is_the_same_as_a_split_of_its_lines(loaded, tmp_path):
    lines = ["The history of the city.", "", "  ", "Many small rivers are in the north, and the south has some."]
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(lines))
    expected = []
    for line in (lines[0], lines[3]):
        pieces = loaded.text().processor.EncodeAsPieces(line)
        expected += [EOS, *map(loaded.dictionary.index, pieces)]
    names, batches = text_batches(loaded, path, batch_size=2)
    batches = list(batches)
    assert stream(batches) == (expected, ["lines.txt"]) and names == ["lines.txt"] and batches[-1].done == 1
    assert {batch.tokens.shape[1] for batch in batches[:-1]} <= {16}
    assert stream(text_batches(loaded, path, 1, max_tokens=5)[1])[0] == expected[:5]


def test_files_that_are_no_text(loaded, tmp_path):
    with pytest.raises(ValueError, match="--text: no file .*nothing.txt"):
        text_batches(loaded, tmp_path / "nothing.txt", 1)
    (tmp_path / "latin.txt").write_bytes(b"fine\nna\xefve\n")
    with pytest.raises(ValueError, match="latin.txt, line 2 is not UTF-8"):
        list(text_batches(loaded, tmp_path / "latin.txt", 1)[1])
