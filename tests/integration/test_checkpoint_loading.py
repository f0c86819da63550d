"""Reading checkpoint files: nothing in them runs, damage is named, and every rank gets the experts that it holds."""

import io
import pickle

import pytest
import torch
from fairseq import checkpoint_utils

import fairseq_mhmoe  # noqa: F401  (installs the hooks)


class RunsCode:
    def __reduce__(self):
        return (print, ("this must not be printed",))


def test_a_pickle_with_code_is_refused_by_name_and_not_run(tmp_path, capsys):
    path = tmp_path / "foreign.pt"
    torch.save({"model": RunsCode()}, path)
    with pytest.raises(ValueError, match="foreign.pt is refused: reading it would run code, it holds print"):
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
    with pytest.raises(ValueError, match="damaged.pt: .*--restore-file"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "none.pt"))
