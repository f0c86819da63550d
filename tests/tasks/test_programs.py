"""The stock programs on a prepared folder: training, evaluation and generation from text."""

import re
import shutil

import pytest
import torch

MODEL = (
    "--arch transformer_lm --decoder-layers 1 --decoder-embed-dim 16 --decoder-ffn-embed-dim 16 "
    "--decoder-attention-heads 2 --share-decoder-input-output-embed --dropout 0.1"
).split()
TRAINING = (
    "--tokens-per-sample 128 --batch-size 32 --required-batch-size-multiple 1 --optimizer adam --lr 1e-2 "
    "--num-workers 0 --cpu --log-format simple --user-dir fairseq_mhmoe"
).split()

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def train(run_cli, tiny_data_dir):
    def run(save_dir, *words, task="gpt"):
        return run_cli(
            "fairseq-train", tiny_data_dir, "--task", task, *MODEL, *TRAINING, "--save-dir", save_dir, *words
        )

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory, train):
    """A folder with checkpoints of a few epochs, one of them in the middle of the second."""
    folder = tmp_path_factory.mktemp("trained")
    output = train(folder, "--max-epoch", 3, "--save-interval-updates", 5).stdout
    per_epoch = int(re.search(r"grouped total_num_itrs = (\d+)", output).group(1))
    middle = next(u for u in range(5, 99, 5) if per_epoch < u < 2 * per_epoch)
    return folder, folder / f"checkpoint_2_{middle}.pt"


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def evaluate(run_cli, folder, checkpoint, *words, task="gpt"):
    output = run_cli(
        "fairseq-eval-lm", folder, "--task", task, "--path", checkpoint, "--user-dir", "fairseq_mhmoe", "--cpu",
        "--gen-subset", "test", *words,
    ).stdout  # fmt: skip
    tokens = int(re.search(r"Evaluated ([\d,]+) tokens", output).group(1).replace(",", ""))
    return tokens, float(re.search(r"Loss \(base 2\): ([\d.]+)", output).group(1))


def test_training_resumed_in_the_second_epoch_is_the_same_training(tmp_path, train, trained):
    folder, middle = trained
    shutil.copyfile(middle, tmp_path / "checkpoint_last.pt")
    train(tmp_path, "--max-epoch", 3)
    straight, resumed = weights(folder / "checkpoint_last.pt"), weights(tmp_path / "checkpoint_last.pt")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_evaluation_counts_every_token(run_cli, tiny_data_dir, trained):
    from fairseq_mhmoe.data.manifest import read_manifest

    expected = read_manifest(tiny_data_dir)["splits"]["test"]["tokens"]
    # blocks of 1024 tokens are fairseq's default, the model has 128 positions
    tokens, loss = evaluate(run_cli, tiny_data_dir, trained[0] / "checkpoint_best.pt")
    assert tokens == expected
    stock = evaluate(
        run_cli, tiny_data_dir, trained[0] / "checkpoint_best.pt", "--tokens-per-sample", 128, task="language_modeling"
    )
    assert stock == (expected, pytest.approx(loss, abs=2e-4))


def test_evaluation_with_a_context_window_counts_every_token(run_cli, tiny_data_dir, trained):
    from fairseq_mhmoe.data.manifest import read_manifest

    expected = read_manifest(tiny_data_dir)["splits"]["test"]["tokens"]
    checkpoint = trained[0] / "checkpoint_best.pt"
    tokens, _ = evaluate(run_cli, tiny_data_dir, checkpoint, "--tokens-per-sample", 128, "--context-window", 64)
    assert tokens == expected


def test_stock_language_modeling_trains_on_the_folder(tmp_path, train):
    assert "done training" in train(tmp_path, "--max-update", 2, task="language_modeling").stdout


def test_generation_goes_from_text_to_text(run_cli, tiny_data_dir, trained):
    prompt = "The naïve ☃ river."
    output = run_cli(
        "fairseq-interactive", tiny_data_dir, "--task", "gpt", "--path", trained[0] / "checkpoint_best.pt",
        "--user-dir", "fairseq_mhmoe", "--cpu", "--beam", 1, "--max-len-b", 60, stdin=prompt + "\n",
    ).stdout  # fmt: skip
    answer = re.search(r"^D-0\t\S+\t(.*)", output, re.MULTILINE).group(1)
    assert answer.startswith(prompt)
