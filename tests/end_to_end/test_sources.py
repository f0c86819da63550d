"""Sources with their own figures: in the log of training and validation, in TensorBoard, and by cli.evaluate."""

import json
import math

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fairseq_mhmoe.cli.evaluate import evaluate

from ..distributed.sources import BYTES_PER_TOKEN, SPLITS, write_sources

FIGURES = ("loss", "ppl", "tokens", "bits_per_byte")
LANGUAGES = ("en", "de")  # those with documents for validation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared folder of three sources."""
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def trained(train, folder, tmp_path_factory):
    """(result of fairseq-train, where its checkpoints and TensorBoard's files are)."""
    place = tmp_path_factory.mktemp("trained")
    options = dict(data=folder, batch_size=8, max_update=6, sampling_alpha=0.5, validate_interval_updates=6)
    return train(place, tensorboard_logdir=place / "tb", valid_subset="valid,de/valid", **options), place


def figures_of(line, subset, name):
    return [line[f"{subset}_src_{name}_{figure}"] for figure in FIGURES]


def test_tokens_of_sources_add_up_to_all(trained):
    result, _ = trained
    lines = result.json_lines("train_inner")
    assert len(lines) == 6
    for line in lines:
        tokens = [line[f"src_{name}_tokens"] for name in BYTES_PER_TOKEN]
        assert sum(int(count or 0) for count in tokens) == round(float(line["wpb"]))


@pytest.mark.parametrize("subset", ["train_inner", "train", "valid"])
def test_losses_of_sources_make_up_the_loss(trained, subset):
    line = trained[0].json_lines(subset)[-1]
    line = {key.removeprefix(f"{subset}_"): value for key, value in line.items()}
    seen = [name for name in BYTES_PER_TOKEN if line.get(f"src_{name}_tokens") is not None]
    assert set(seen) >= set(LANGUAGES)
    tokens = {name: int(line[f"src_{name}_tokens"]) for name in seen}
    bits = {name: float(line[f"src_{name}_loss"]) * tokens[name] for name in seen}
    assert sum(bits.values()) / sum(tokens.values()) == pytest.approx(float(line["nll_loss"]), abs=2e-3)
    nbytes = {name: tokens[name] * BYTES_PER_TOKEN[name] for name in seen}
    assert sum(bits.values()) / sum(nbytes.values()) == pytest.approx(float(line["bits_per_byte"]), rel=2e-3)
    for name in seen:
        assert float(line[f"src_{name}_ppl"]) == pytest.approx(2 ** (bits[name] / tokens[name]), rel=2e-3)
        assert float(line[f"src_{name}_bits_per_byte"]) == pytest.approx(bits[name] / nbytes[name], rel=2e-3)


def test_validation_counts_every_token_of_each_source(trained, folder):
    line = trained[0].json_lines("valid")[-1]
    splits = json.loads((folder / "manifest.json").read_text())["sources"]
    for name in LANGUAGES:
        assert int(line[f"valid_src_{name}_tokens"]) == splits[name]["splits"]["valid"]["tokens"]
    assert line["valid_src_sw_tokens"] is line["valid_src_sw_loss"] is None


def test_validation_of_one_source_is_its_part_of_all(trained):
    [whole], [one] = trained[0].json_lines("valid"), trained[0].json_lines("de/valid")
    whole = {key: value for key, value in whole.items() if "_src_de_" in key}
    assert {key.removeprefix("valid_"): value for key, value in whole.items()} == {
        key.removeprefix("de/valid_"): value for key, value in one.items() if "_src_de_" in key
    }
    assert one["de/valid_src_en_loss"] is None
    assert one["de/valid_src_de_loss"] == one["de/valid_nll_loss"]


def test_tensorboard_has_them(trained):
    events = EventAccumulator(str(trained[1] / "tb" / "valid")).Reload()
    scalars = set(events.Tags()["scalars"])
    assert scalars >= {f"src_{name}_{figure}" for name in LANGUAGES for figure in FIGURES} | {"bits_per_byte"}
    assert not any("source_sums" in name for name in scalars)


@pytest.fixture(scope="module")
def evaluated(trained, folder):
    path = trained[1] / "checkpoint_last.pt"
    words = [str(folder), "--task", "gpt", "--path", str(path), "--tokens-per-sample", "32", "--batch-size", "8"]
    words += ["--gen-subset", "valid,de/valid", "--user-dir", "fairseq_mhmoe", "--cpu", "--num-workers", "0"]
    args = options.parse_args_and_arch(options.get_eval_lm_parser(), words)
    return evaluate(convert_namespace_to_omegaconf(args))


def test_evaluation_has_the_figures_of_validation(trained, evaluated):
    line = trained[0].json_lines("valid")[-1]
    found = evaluated["valid"]
    assert list(found["sources"]) == list(LANGUAGES)
    for name, report in found["sources"].items():
        assert report["perplexity"] == pytest.approx(float(line[f"valid_src_{name}_ppl"]), rel=1e-3)
        assert report["bits_per_byte"] == pytest.approx(float(line[f"valid_src_{name}_bits_per_byte"]), rel=1e-3)
        assert report["tokens"] == int(line[f"valid_src_{name}_tokens"])
        assert report["perplexity_95"][0] < report["perplexity"] < report["perplexity_95"][1]
        assert "document_nll" not in report
    assert found["bits_per_token"] == pytest.approx(float(line["valid_nll_loss"]), abs=1e-3)
    assert found["bits_per_byte"] == pytest.approx(float(line["valid_bits_per_byte"]), rel=1e-3)


def test_evaluation_of_all_is_the_sum_of_the_sources(evaluated):
    found = evaluated["valid"]
    parts = found["sources"].values()
    for key in ("nll", "tokens", "documents"):
        assert found[key] == pytest.approx(sum(part[key] for part in parts))
    assert found["documents"] == len(found["document_nll"]) == sum(SPLITS["valid"].values())
    nbytes = sum(part["tokens"] * BYTES_PER_TOKEN[name] for name, part in found["sources"].items())
    assert found["bits_per_byte"] == pytest.approx(found["nll"] / math.log(2) / nbytes, rel=1e-3)
    one = evaluated["de/valid"]
    assert "sources" not in one and {key: one[key] for key in found["sources"]["de"]} == found["sources"]["de"]
