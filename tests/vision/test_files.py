"""Files of tokenizers: the same codes afterwards, whole or not at all, no code run, clear refusals."""

import pickle

import pytest
import torch

from fairseq_mhmoe.vision import PatchVQ, PatchVQConfig, VisualTokenizer, load_tokenizer, save_tokenizer

from .pictures import draw


@pytest.fixture
def saved(tmp_path):
    tokenizer = PatchVQ(PatchVQConfig(patch_size=4, num_codes=9, width=8, image_size=24))
    save_tokenizer(tokenizer, tmp_path / "deep" / "tokenizer.pt")
    return tokenizer, tmp_path / "deep" / "tokenizer.pt"


def test_what_is_saved_is_loaded_frozen(saved):
    tokenizer, path = saved
    loaded = load_tokenizer(path)
    assert torch.equal(loaded(draw(4)), tokenizer(draw(4)))
    assert loaded.config == tokenizer.config and loaded.image_size == 24
    assert not loaded.training and not any(weight.requires_grad for weight in loaded.parameters())
    assert [file.name for file in path.parent.iterdir()] == ["tokenizer.pt"]


def test_a_write_that_fails_leaves_the_old_file(saved, monkeypatch):
    tokenizer, path = saved
    before = path.read_bytes()
    monkeypatch.setattr(torch, "save", lambda content, file: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_tokenizer(tokenizer, path)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


def test_an_unknown_kind_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="VisualTokenizer has no file format"):
        save_tokenizer(VisualTokenizer(), tmp_path / "x.pt")


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"model": {"decoder.embed_tokens.weight": torch.zeros(1)}}, "no image tokenizer"),
        ([1], "holds a list"),
        ({"format": "fairseq_mhmoe image tokenizer", "version": 9, "kind": "patch_vq"}, "version 9"),
        ({"format": "fairseq_mhmoe image tokenizer", "version": 1, "kind": "magic"}, "kind 'magic'"),
        ({"format": "fairseq_mhmoe image tokenizer", "version": 1, "kind": "vqkd", "config": {}}, "do not fit"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path / "x.pt")


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    torch.save({"model": Evil()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(ValueError, match=f"{name}: damaged, or not a file of weights only"):
            load_tokenizer(tmp_path / name)
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("keep", [0, 10, 500, -100])
def test_a_cut_file_is_refused(saved, keep):
    _, path = saved
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"tokenizer\.pt"):
        load_tokenizer(path)


def test_a_missing_file_names_the_program_that_makes_it(tmp_path):
    with pytest.raises(ValueError, match="no such file; scripts/train_image_tokenizer.sh"):
        load_tokenizer(tmp_path / "none.pt")
