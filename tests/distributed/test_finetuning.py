"""Fine-tuning in two processes is fine-tuning in one, where batches don't come out even too."""

import json

import pytest
import torch

from fairseq_mhmoe.checkpoint import load_merged
from fairseq_mhmoe.cli import evaluate_nlvr2
from tests.finetuning_data import write_nlvr2_data

from .launcher import describe, program_ranks

# 18 statements for training are 5 batches, 6 for validation are 1: the second rank lacks one in each epoch
WORDS = (
    "--user-dir fairseq_mhmoe --cpu --task nlvr2 --criterion nlvr2 --arch mhmoe_multimodal_tiny --image-size 16 "
    "--patch-size 8 --max-text-length 12 --encoder-embed-dim 24 --encoder-layers 2 --encoder-attention-heads 2 "
    "--encoder-ffn-embed-dim 32 --moe-expert-count 4 --moe-ffn-dim 16 --optimizer sgd --lr 0.05 --layer-lr-decay 0.7 "
    "--batch-size 4 --batch-size-valid 6 --max-update 6 --num-workers 0 --no-epoch-checkpoints --log-format json "
    "--log-interval 1 --ddp-backend legacy_ddp --clip-norm 1"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_data_dir):
    """The statements."""
    return write_nlvr2_data(tmp_path_factory.mktemp("statements") / "data", tiny_data_dir)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    """{processes: (figures by subset, checkpoint)} of the same training."""
    root = tmp_path_factory.mktemp("finetuning")
    done = {}
    for processes, update_freq in ((1, 2), (2, 1)):
        folder = root / str(processes)
        words = [data, *WORDS, "--update-freq", update_freq, "--save-dir", folder]
        ended = program_ranks("fairseq-train", words, processes)
        assert all(rank.status == 0 for rank in ended), describe(ended)
        figures = {subset: lines_of(ended[0].output, subset) for subset in ("train_inner", "valid")}
        done[processes] = figures, folder / "checkpoint_last.pt"
    return done


def lines_of(output, subset):
    """The figures of every line of a subset."""
    mark = f"| {subset} | {{"
    return [json.loads(line[line.index("{") :]) for line in output.splitlines() if mark in line]


@pytest.mark.parametrize("subset", ["train_inner", "valid"])
def test_the_figures_are_those_of_one_process(runs, subset):
    one, two = (runs[processes][0][subset] for processes in (1, 2))
    assert len(one) == len(two) == {"train_inner": 6, "valid": 2}[subset]
    prefix = "valid_" if subset == "valid" else ""
    for theirs, ours in zip(one, two, strict=True):
        for figure in ("loss", "task_loss", "accuracy", "moe_gate_loss", "moe_load_max"):
            name = prefix + figure
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=2e-3, abs=2e-4), name


def test_the_weights_are_those_of_one_process(runs):
    one, two = (load_merged(runs[processes][1])["model"] for processes in (1, 2))
    assert one.keys() == two.keys() and any("experts" in name for name in one)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)


def test_a_checkpoint_with_spread_experts_is_evaluated_in_one_process(runs, data):
    lines = []
    for _, checkpoint in runs.values():
        evaluate_nlvr2.main([str(checkpoint), str(data), "--split", "valid", "--cpu", "--num-workers", "0"])
        lines.append((checkpoint.parent / "nlvr2_valid_predictions.csv").read_text())
    assert lines[0] == lines[1] and lines[0].count("\n") == 6
