"""The stock programs on several sources: a mixture trains, stops and resumes; a source is evaluated alone."""

import json

import numpy as np
import pytest

from ..data.folders import write_sources

SETTINGS = dict(sampling_alpha=0.5, valid_subset="valid,de/valid", seed=2, max_epoch=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)

    def documents(count):
        return [[*rng.integers(4, 50, size=rng.integers(5, 40)), 2] for _ in range(count)]

    return write_sources(
        tmp_path_factory.mktemp("sources") / "data",
        en={"train": [documents(30), documents(10)], "valid": [documents(5)]},
        de={"train": [documents(5)], "valid": [documents(4), documents(3)]},
    )


@pytest.fixture(scope="module")
def straight(train, tmp_path_factory, folder):
    """(save folder, result) of two epochs without a stop."""
    save_dir = tmp_path_factory.mktemp("straight")
    return save_dir, train(save_dir, data=folder, max_update=100, num_workers=1, **SETTINGS)


def losses(result):
    return {int(line["num_updates"]): line["loss"] for line in result.json_lines("train_inner")}


def test_a_mixture_goes_on_in_the_middle_of_an_epoch(train, tmp_path, folder, straight):
    expected = losses(straight[1])
    stop = max(expected) * 3 // 4
    stopped = losses(train(tmp_path, data=folder, max_update=stop, **SETTINGS))
    resumed = losses(train(tmp_path, data=folder, max_update=100, **SETTINGS))
    assert sorted(resumed) == list(range(stop + 1, max(expected) + 1))
    assert {**stopped, **resumed} == expected


def test_each_subset_is_validated(straight):
    assert straight[1].json_lines("valid") and straight[1].json_lines("de/valid")


def test_a_source_is_evaluated_alone(run_program, folder, straight):
    counts = json.loads((folder / "manifest.json").read_text())["sources"]["de"]["splits"]["valid"]
    words = dict(path=straight[0] / "checkpoint_last.pt", task="gpt", tokens_per_sample=32, gen_subset="de/valid")
    assert f"Evaluated {counts['tokens']:,} tokens" in run_program("fairseq-eval-lm", folder, **words).output
