"""Repairs for numpy 2 and torch >= 2.6."""

import io
import pickle

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.data import TokenBlockDataset

import fairseq_mhmoe  # noqa: F401  (installs the hooks)


def test_blocks_that_end_at_sentences_can_be_made():
    sentences = [torch.tensor([4, 5, 2]), torch.tensor([6, 2])]
    blocks = TokenBlockDataset(sentences, [3, 2], block_size=None, pad=1, eos=2, break_mode="eos")
    assert [block.tolist() for block in blocks] == [[4, 5, 2], [6, 2]]


def test_numpy_has_the_names_that_fairseq_uses():
    assert np.vectorize(lambda i: i, otypes=[np.compat.long])(np.arange(2)).tolist() == [0, 1]
    assert np.int is int


class RunsCode:
    def __reduce__(self):
        return (print, ("this must not be printed",))


def test_a_pickle_with_code_is_refused_by_name_and_not_run(tmp_path, capsys):
    path = tmp_path / "foreign.pt"
    torch.save({"model": RunsCode()}, path)
    with pytest.raises(ValueError, match="foreign.pt is not a checkpoint of this program.*--restore-file"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert "must not be printed" not in capsys.readouterr().out


def archive():
    buffer = io.BytesIO()
    torch.save({"model": {"weight": torch.ones(10000)}}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", pickle.dumps([1, 2]), archive()[:-100], archive()[:1000], archive()[:20000]],
    ids=["empty", "text", "pickle", "without its end", "beginning", "half"],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged.pt is not a checkpoint of this program"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "none.pt"))
