"""Task masked_multimodal in several processes: what one process with a larger --update-freq learns; no rank waits."""

import json
import re

import pytest
import torch

from fairseq_mhmoe.checkpoint import load_merged

from ..multimodal_training import MULTIMODAL, multimodal_words
from .launcher import describe, program_ranks, words_of
from .test_equality_training import column, log_all_digits

UPDATES, RATE = 4, 0.3
MOE = dict(arch="mhmoe_multimodal_tiny")
CASES = {
    "dense": dict(arch="dense_multimodal_tiny"),
    # an epoch of 3 batches, of which a rank lacks one; clipping, and all that the loss can have
    "experts spread": dict(
        **MOE, train_subset="valid", batch_size=2, text_batch_size=70, image_loss_weight=0.5, pair_loss_weight=2.0,
        moe_z_loss_wt=0.01, clip_norm=0.5,
    ),
    "separate experts, recomputed": dict(
        **MOE, moe_modality="separate", checkpoint_activations=True, image_batch_size=3, text_batch_size=70,
        save_interval_updates=1, no_epoch_checkpoints=None,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def train(multimodal_data_dir, tmp_path_factory):
    """train(name, processes) -> (log lines, file of the last checkpoint); each training once."""
    done = {}

    def run(name, processes):
        key = name, processes
        if key not in done:
            folder = tmp_path_factory.mktemp("run")
            options = dict(optimizer="sgd", lr=RATE, disable_validation=True, max_update=UPDATES, log_interval=1)
            options |= {**CASES[name], "ddp_backend": "legacy_ddp"}
            options["update_freq"] = 2 // processes
            words = multimodal_words(multimodal_data_dir, folder, **options)
            ended = program_ranks("fairseq-train", words, processes, before=log_all_digits)
            assert all(rank.status == 0 for rank in ended), describe(ended)
            done[key] = log_lines(ended[0].output, "train_inner"), folder / "checkpoint_last.pt"
        return done[key]

    return run


def log_lines(output, tag):
    """The JSON lines of a log."""
    return [json.loads(line) for line in re.findall(rf"\| {tag} \| (\{{.*\}})$", output, re.MULTILINE)]


def read_by(state):
    """(tokens, images) that all processes read in a training, by what its meters have added up."""
    [meters] = [meters for name, meters in state["extra_state"]["metrics"].items() if name == "default"]
    sums = {key: content["sum"] for _, key, _, content in meters if "sum" in content}
    return sums["_tokens"], sums["_images"]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(name, train):
    (one, whole), (two, spread) = (train(name, processes) for processes in (1, 2))
    assert len(one) == len(two) == UPDATES
    for figure in ("loss", "nll_loss", "gnorm", "ppl", *(["moe_gate_loss"] if "moe_gate_loss" in one[0] else [])):
        assert column(two, figure) == pytest.approx(column(one, figure), rel=1e-4, abs=1e-4), figure
    parts = [key for key in one[0] if key.startswith("stream_")]
    assert len(parts) == 16
    for part in parts:
        assert column(two, part) == pytest.approx(column(one, part), abs=2e-3, rel=1e-3), part
    whole, spread = load_merged(whole), load_merged(spread)
    assert read_by(spread) == pytest.approx(read_by(whole)) and read_by(whole)[1] > 0
    whole, spread = whole["model"], spread["model"]
    assert spread.keys() == whole.keys()
    for parameter, weights in whole.items():
        torch.testing.assert_close(spread[parameter], weights, rtol=1e-3, atol=1e-4)
    losses = column(one, "loss")
    assert losses[-1] < losses[0]


def test_gradients_of_the_first_update_are_equal(train):
    # SGD: the weights lose the gradient times the rate
    folders = [train("separate experts, recomputed", processes)[1].parent for processes in (1, 2)]
    one, two = (load_merged(folder / "checkpoint_1_1.pt")["model"] for folder in folders)
    torch.testing.assert_close(two, one, rtol=0, atol=RATE * 1e-5)
    later = load_merged(folders[0] / "checkpoint_1_2.pt")["model"]
    moved = [parameter for parameter, after in later.items() if (after - one[parameter]).abs().max() > RATE * 1e-4]
    for part in ("moe_layer.A.experts.", "moe_layer.B.experts.", "moe_layer.A.router.", "vision_embed", "text_embed"):
        assert any(part in parameter for parameter in moved), part


def test_streams_that_one_rank_lacks_hold_up_nobody(train, multimodal_data_dir):
    # 3 batches of 3 images, 206 texts and 5 pairs: (3, 70, 2), (0, 70, 2) and (0, 66, 1) rows; one rank lacks the last
    _, checkpoint = train("separate experts, recomputed", 2)
    results = []
    for processes in (1, 2):
        own = {name: MULTIMODAL[name] for name in ("user_dir", "cpu", "task", "num_workers", "log_format")}
        words = [multimodal_data_dir, *words_of({**own, "batch_size": 2, "path": checkpoint})]
        ended = program_ranks("fairseq-validate", words, processes)
        assert all(rank.status == 0 for rank in ended), describe(ended)
        [line] = log_lines(ended[0].output, "valid")
        assert not any(log_lines(rank.output, "valid") for rank in ended[1:])
        results.append({key: line[key] for key in line if re.search("loss|ppl|accuracy|masked", key)})
    assert results[0] == results[1]
    assert [int(results[0][f"valid_stream_{part}_masked"]) for part in ("image", "pair_image")] == [3 * 6, 5 * 6]
