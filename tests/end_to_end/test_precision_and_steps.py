"""Precisions, and the options of fairseq that change how a step is made."""

import argparse
import math

import pytest
import torch

PRECISIONS = {
    "fp32": {},
    "bf16": {"bf16": True},
    "memory-efficient bf16": {"memory_efficient_bf16": True},
    "fp16": {"fp16": True, "fp16_init_scale": 4},
    "memory-efficient fp16": {"memory_efficient_fp16": True, "fp16_init_scale": 4},
}


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """runs(name, **options) -> (result, last checkpoint) of four updates, done once."""
    done = {}

    def run(name, **options):
        if name not in done:
            folder = tmp_path_factory.mktemp("run")
            result = train(folder, disable_validation=True, **options)
            with torch.serialization.safe_globals([argparse.Namespace]):  # the settings of sgd
                done[name] = result, torch.load(folder / "checkpoint_last.pt", weights_only=True)
        return done[name]

    return run


def losses(result):
    return [float(line["nll_loss"]) for line in result.json_lines("train_inner")]


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_precision_trains_alike(runs, name):
    options = PRECISIONS[name]
    expected = losses(runs("fp32")[0])
    assert losses(runs(name, **options)[0]) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_router_is_trained_in_every_precision(runs, train, name):
    options = PRECISIONS[name]
    after = runs(name, **options)[1]["model"]
    start = runs("no learning", optimizer="sgd", lr=1e-12)[1]["model"]
    router = [key for key in after if ".router." in key]
    assert router
    assert all((after[key] - start[key]).abs().max() > 1e-3 for key in router)


@pytest.mark.parametrize("name", ["fp16", "memory-efficient fp16"])
def test_a_step_that_overflows_in_float16_is_skipped(train, tmp_path, name):
    options = {**PRECISIONS[name], "fp16_init_scale": 2**24, "no_save": True}
    result = train(tmp_path, disable_validation=True, **options)
    skipped = result.output.count("gradient overflow detected")
    assert skipped > 0
    lines = result.json_lines("train_inner")
    assert [line["num_updates"] for line in lines] == ["1", "2", "3", "4"]
    assert float(lines[-1]["loss_scale"]) == 2 ** (24 - skipped)


def test_update_freq_equals_larger_batches(runs):
    plain = dict(dropout=0.0, moe_gate_loss_wt=0.0, optimizer="sgd", lr=0.5)
    large = runs("batch 8", **plain, batch_size=8)
    twice = runs("batch 4 twice", **plain, batch_size=4, update_freq=2)
    assert losses(twice[0])[0] != losses(runs("fp32")[0])[0]
    steps = [line["bsz"] for line in twice[0].json_lines("train_inner")]
    assert steps == [line["bsz"] for line in large[0].json_lines("train_inner")] == ["8"] * 4


def test_clipping_bounds_the_step(runs):
    free = runs("sgd", optimizer="sgd", lr=0.5)
    clipped = runs("sgd clipped", optimizer="sgd", lr=0.5, clip_norm=1e-4)
    assert all(float(line["clip"]) == 100 for line in clipped[0].json_lines("train_inner"))
    name = "decoder.embed_tokens.weight"
    start = runs("no learning", optimizer="sgd", lr=1e-12)[1]["model"][name]
    assert (clipped[1]["model"][name] - start).norm() <= 4 * 0.5 * 1e-4 + 1e-6
    assert (free[1]["model"][name] - start).norm() > 1e-2


def test_the_average_of_weights_trails_the_weights(runs):
    _, state = runs("ema", store_ema=True, ema_decay=0.5, ema_fp32=True)
    average, weights = state["extra_state"]["ema"], state["model"]
    assert set(average) == set(weights)
    name = next(name for name in weights if name.endswith("experts.w_in"))
    assert 0 < (average[name] - weights[name]).abs().max() < 0.1


def test_activation_checkpointing_changes_no_loss(runs):
    recomputed = runs("recomputed", checkpoint_activations=True)
    assert losses(recomputed[0]) == losses(runs("fp32")[0])


def test_extra_losses_enter_the_training_loss(runs):
    result, _ = runs("z-loss", moe_gate_loss_wt=0.1, moe_z_loss_wt=0.01)
    for line in result.json_lines("train_inner"):
        extra = 0.1 * float(line["moe_gate_loss"]) + 0.01 * float(line["moe_z_loss"])
        assert float(line["loss"]) == pytest.approx(float(line["nll_loss"]) + extra / math.log(2), abs=3e-3)


def test_the_simple_log_keeps_layers_out(train, tmp_path):
    result = train(tmp_path, log_format="simple", max_update=1, no_save=True, disable_validation=True)
    (line,) = [line for line in result.output.splitlines() if "train_inner" in line]
    assert "moe_load_max=" in line
    assert "moe_l1_" not in line


def test_training_goes_on_with_an_optimizer_without_dataclass(train, tmp_path):
    train(tmp_path, optimizer="sgd", max_update=1, disable_validation=True)
    result = train(tmp_path, optimizer="sgd", max_update=2, disable_validation=True)
    assert [line["num_updates"] for line in result.json_lines("train_inner")] == ["2"]
