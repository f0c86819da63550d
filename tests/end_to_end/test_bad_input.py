"""What goes wrong ends in one clear error, and what was there stays as it was."""

import hashlib
import shutil

import pytest
import torch


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """Folder with the checkpoints of two updates."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder, max_update=2, max_target_positions=40)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of that folder to break."""
    return shutil.copytree(trained, tmp_path / "checkpoints")


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("checkpoint*.pt")}


def last_error(result):
    """The last line of the output: the error, and no traceback with it."""
    assert "Traceback" not in result.output, result.output[-4000:]
    return [line for line in result.output.splitlines() if line.strip()][-1]


def poison(path, value):
    """Writes one bad number into an expert of a checkpoint."""
    state = torch.load(path, weights_only=True)
    name = next(name for name in state["model"] if name.endswith("experts.w_in"))
    state["model"][name].view(-1)[0] = value
    torch.save(state, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_number_in_the_loss_ends_training_without_a_step(train, folder, value):
    poison(folder / "checkpoint_last.pt", value)
    before = hashes(folder)
    result = train(folder, max_update=6, max_target_positions=40, check=False)
    assert result.returncode != 0
    assert "error: update 3: the loss is nan" in last_error(result)
    assert "the weights themselves are not finite (first decoder.layers." in last_error(result)
    assert result.json_lines("train_inner") == []
    assert hashes(folder) == before


def test_a_checkpoint_of_another_architecture_is_refused(train, folder):
    before = hashes(folder)
    result = train(folder, max_update=6, max_target_positions=40, decoder_embed_dim=48, check=False)
    assert result.returncode != 0
    assert "ensure that the architectures match" in last_error(result)
    assert hashes(folder) == before


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


def test_training_is_refused_when_no_checkpoint_is_complete(train, folder):
    for path in folder.glob("checkpoint*.pt"):
        cut(path)
    before = hashes(folder)
    result = train(folder, max_update=6, max_target_positions=40, check=False)
    assert result.returncode != 0
    assert "checkpoint_last.pt: is cut or damaged" in last_error(result)
    assert hashes(folder) == before


def test_a_damaged_checkpoint_is_kept_aside_for_the_last_complete_one(train, folder):
    cut(folder / "checkpoint_last.pt")
    damaged = (folder / "checkpoint_last.pt").read_bytes()
    result = train(folder, max_update=4, max_target_positions=40)
    assert "checkpoint_last.pt is not complete" in result.output
    assert f"continuing from {folder}/checkpoint_best.pt instead" in result.output
    assert [line["num_updates"] for line in result.json_lines("train_inner")] == ["3", "4"]
    assert (folder / "checkpoint_last.pt.damaged").read_bytes() == damaged


def test_evaluation_without_a_checkpoint_says_which(run_program, tiny_data_dir, tmp_path):
    result = run_program("fairseq-eval-lm", tiny_data_dir, check=False, task="gpt", path=tmp_path / "none.pt")
    assert result.returncode != 0
    assert "none.pt" in result.output.splitlines()[-1]


def test_training_sequences_longer_than_the_positions_are_refused(train, tmp_path):
    result = train(tmp_path / "run", tokens_per_sample=64, max_target_positions=32, check=False)
    assert result.returncode != 0
    assert "--tokens-per-sample 64 is more than --max-target-positions 32" in last_error(result)
    assert not list(tmp_path.rglob("*.pt"))


def test_documents_longer_than_the_positions_are_refused_in_evaluation(trained, run_program, tiny_data_dir):
    result = run_program(
        "fairseq-eval-lm", tiny_data_dir, check=False, task="gpt", path=trained / "checkpoint_best.pt",
        sample_break_mode="eos", gen_subset="test", batch_size=4, tokens_per_sample=32,
    )  # fmt: skip
    assert result.returncode != 0
    assert "--sample-break-mode none" in last_error(result)


def break_data(folder, how):
    if how == "truncated index":
        path = folder / "train.idx"
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "truncated data":
        path = folder / "train.bin"
        path.write_bytes(path.read_bytes()[: -path.stat().st_size // 2])
    elif how == "empty data":
        (folder / "train.bin").write_bytes(b"")
    elif how == "smaller vocabulary":
        lines = (folder / "dict.txt").read_text().splitlines(keepends=True)
        (folder / "dict.txt").write_text("".join(lines[: len(lines) // 2]))
    elif how == "no vocabulary":
        (folder / "dict.txt").unlink()
    elif how == "no training data":
        (folder / "train.idx").unlink()


@pytest.mark.parametrize(
    "how",
    ["truncated index", "truncated data", "empty data", "smaller vocabulary", "no vocabulary", "no training data"],
)
def test_broken_data_is_refused_by_name(train, tiny_data_dir, tmp_path, how):
    data = shutil.copytree(tiny_data_dir, tmp_path / "data")
    break_data(data, how)
    result = train(tmp_path / "run", data=data, check=False)
    assert result.returncode != 0
    assert str(data) in last_error(result)
    assert not list((tmp_path / "run").glob("*.pt"))
