"""The benchmark of training steps: models of equal cost, ratios by hand, and one run on a tiny corpus."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import step_models
import train_step

VOCABULARY = 320


@pytest.fixture(scope="module")
def models():
    """All models in the style that torchscale has too, by name."""
    return {model.name: model for model in step_models.step_models(step_models.NAMES, "classic", 128, 2, VOCABULARY)}


def test_models_have_the_flops_of_the_dense_one_and_v1_has_the_parameters_of_xmoe(models):
    cost = {name: model.cost for name, model in models.items()}
    for name in set(step_models.NAMES) - {"mhmoe_v1"}:
        assert cost[name].flops_per_token == pytest.approx(cost["dense"].flops_per_token, rel=0.02), name
    for name in ("mhmoe_v1", "mhmoe_v2"):
        assert cost[name].params_total == pytest.approx(cost["xmoe"].params_total, rel=0.03), name
    assert cost["mhmoe_v1"].flops_per_token > 1.3 * cost["xmoe"].flops_per_token


def test_torchscales_models_have_the_sizes_of_ours(models):
    for ours, theirs in (("dense", "torchscale_dense"), ("smoe", "torchscale_top2"), ("xmoe", "torchscale_xmoe")):
        words = models[theirs].words
        assert words[:2] == ["--arch", "torchscale_lm"]
        assert set(words[2:]) <= set(models[ours].words)
        assert models[theirs].cost == models[ours].cost


def test_another_style_leaves_torchscale_out():
    names = ["dense", "torchscale_dense"]
    assert [model.name for model in step_models.step_models(names, "v2", 64, 2, VOCABULARY)] == ["dense"]
    options = train_step.parse(["--style", "v2", "--models", *names])
    assert [entry["config"] for entry in train_step.skipped(options)] == ["torchscale_dense"]


@pytest.mark.parametrize("width, layers, named", [(100, 2, "--width 100"), (64, 1, "--layers 1")])
def test_sizes_that_no_model_can_have_are_refused(width, layers, named):
    with pytest.raises(ValueError, match=named):
        step_models.step_models(["dense"], "classic", width, layers, VOCABULARY)


def test_ratios_are_medians_of_those_within_a_round(models):
    def rounds(*times):
        shared = dict(wall_ms=1, system_ms=0, page_faults=0, tokens=512, peak_mib=5, training_mib=2)
        shared |= dict(allocator="glibc", nll_loss=9.0)
        return [shared | {"ms": ms} for ms in times]

    runs = {name: train_step.Run(models[name], 4, "glibc") for name in ("dense", "xmoe", "torchscale_xmoe")}
    # the machine was slow in the second round, for all of them
    measured = {
        runs["dense"]: rounds(10, 40, 10),
        runs["xmoe"]: rounds(11, 48, 12),
        runs["torchscale_xmoe"]: rounds(22, 96, 18),
    }
    row = train_step.row(runs["xmoe"], measured, train_step.parse([]))
    assert (row["ms"], row["tokens_per_s"]) == (12, pytest.approx(512 / 0.012))
    assert row["ratio_dense"] == pytest.approx(1.2)
    assert row["speedup_over_torchscale_xmoe"] == pytest.approx(2.0)
    # other updates are not compared with
    measured[train_step.Run(models["dense"], 8, "glibc")] = rounds(1, 1, 1)
    assert train_step.row(runs["xmoe"], measured, train_step.parse([]))["ratio_dense"] == row["ratio_dense"]
    alone = train_step.row(runs["xmoe"], {runs["xmoe"]: measured[runs["xmoe"]]}, train_step.parse([]))
    assert alone["ratio_dense"] is alone["speedup_over_torchscale_xmoe"] is None


def test_an_allocator_is_chosen_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "another.so")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    plain, glibc = (train_step.environment_of(name) for name in ("plain", "glibc"))
    assert "LD_PRELOAD" not in plain.keys() | glibc.keys()
    assert "MALLOC_TRIM_THRESHOLD_" not in plain
    assert glibc["MALLOC_TRIM_THRESHOLD_"] == str(4 << 30)


@pytest.mark.parametrize("option, value, least", [("--warmup", 1, 2), ("--sequences", 0, 1), ("--rounds", 0, 1)])
def test_wrong_numbers_are_refused(capsys, option, value, least):
    with pytest.raises(SystemExit):
        train_step.parse([option, str(value)])
    assert f"{option} {value}: expected {least} or more" in capsys.readouterr().err


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no manifest.json there; name a folder"):
        train_step.vocabulary_of(tmp_path)


def test_quick_leaves_alone_what_was_given():
    assert vars(train_step.parse(["--quick"])).items() >= train_step.QUICK.items()
    assert train_step.parse(["--quick", "--layers", "6"]).layers == 6


@pytest.mark.slow
def test_ours_and_torchscales_train_and_are_timed(run_program, tiny_data_dir, tmp_path):
    target = tmp_path / "figures.json"
    sizes = ["--width", 64, "--layers", 2, "--rounds", 1, "--updates", 2, "--warmup", 2, "--allocators", "glibc"]
    sizes += ["--sequences", 4, "--models", "dense", "torchscale_xmoe", "--data", tiny_data_dir, "--device", "cpu"]
    output = run_program("benchmarks/train_step.py", *sizes, "--json", target).stdout
    figures = json.loads(target.read_text())
    dense, peer = figures["rows"]
    assert (dense["model"], peer["model"]) == ("dense", "torchscale_xmoe")
    assert dense["ratio_dense"] == peer["speedup_over_torchscale_xmoe"] == 1
    assert peer["ratio_dense"] == pytest.approx(peer["ms"] / dense["ms"])
    for row in figures["rows"]:
        assert row["tokens_per_update"] == 4 * 128
        assert row["tokens_per_s"] == pytest.approx(512e3 / row["ms"])
        assert 0 < row["training_mib"] < row["peak_mib"]
        assert 0 < row["nll_loss"] < 12
        assert f"| {row['model']} |" in output
