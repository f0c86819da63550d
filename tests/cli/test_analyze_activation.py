"""mhmoe-analyze activation from checkpoints to files: counts against a loop over tokens, comparisons, refusals."""

import json
import re
import shutil

import pytest
import torch

from fairseq_mhmoe.analysis.activation import THRESHOLDS
from fairseq_mhmoe.cli.analyze import main
from fairseq_mhmoe.cli.analyze_activation import default_labels, parse_thresholds
from fairseq_mhmoe.cli.checkpoint import main as checkpoint_command
from fairseq_mhmoe.evaluation.loading import load_checkpoint


@pytest.fixture
def analyze(tiny_data_dir, tmp_path, capsys):
    """analyze(checkpoint, ..., "--option", ..., data=, status=0) -> (content of activation.json, output, errors)."""

    def run(*words, data=tiny_data_dir, status=0):
        cut = next((place for place, word in enumerate(words) if str(word).startswith("--")), len(words))
        folder = tmp_path / "out"
        shutil.rmtree(folder, ignore_errors=True)
        words = [*words[:cut], data, *words[cut:], "--output", folder, "--device", "cpu"]
        assert main(["activation", *map(str, words)]) == status
        output, errors = capsys.readouterr()
        content = json.loads((folder / "activation.json").read_text()) if status == 0 else None
        assert (status == 0) == folder.exists()
        return content, output, errors

    return run


def counts_by_hand(checkpoint, data, limit):
    """{layer: {expert: selections}} of the first tokens of the valid split, one by one, from the gates' logits."""
    loaded = load_checkpoint(checkpoint, data, "cpu")
    loaded.task.load_dataset("valid")
    found = {}

    def count(block, layer, logits):
        for sub_token in logits.tolist():
            by_preference = sorted(range(len(sub_token)), key=lambda expert: -sub_token[expert])
            for expert in by_preference[: layer.config.top_k]:
                of_layer = found.setdefault(block, {})
                of_layer[expert] = of_layer.get(expert, 0) + 1

    for block, layer in loaded.moe_layers():
        layer.router.register_forward_hook(
            lambda module, inputs, logits, block=block, layer=layer: count(block, layer, logits)
        )
    for index in range(len(loaded.task.dataset("valid"))):
        tokens = loaded.task.dataset("valid")[index]["source"][:limit]
        limit -= len(tokens)
        if len(tokens):
            with torch.no_grad():
                loaded.model(tokens.unsqueeze(0))
    return found


def selections(model):
    """{layer: {expert: selections}} of the file, without zeros."""
    return {
        layer["layer"]: {expert: count for expert, count in enumerate(layer["selections"]) if count}
        for layer in model["layers"]
    }


@pytest.mark.parametrize("limit", [100, 10**6])
def test_counts_are_those_of_a_loop_over_tokens(limit, analyze, tiny_checkpoint, tiny_data_dir):
    checkpoint = tiny_checkpoint("mhmoe")
    content, output, errors = analyze(checkpoint, "--max-tokens", limit, "--batch-size", 3)
    [model] = content["models"]
    tokens = json.loads((tiny_data_dir / "manifest.json").read_text())["splits"]["valid"]["tokens"]
    assert model["tokens"] == min(limit, tokens) and model["sub_tokens"] == 3 * model["tokens"]
    assert selections(model) == counts_by_hand(checkpoint, tiny_data_dir, limit)
    assert all(sum(layer["selections"]) == 2 * model["sub_tokens"] for layer in model["layers"])
    assert (model["experts"], model["top_k"], model["heads"], model["dropped_share"]) == (6, 2, 3, 0)
    assert model["activated_experts"]["threshold"] == pytest.approx(2 / 12)
    assert [point["threshold"] for point in model["curve"]] == list(THRESHOLDS)
    assert f"mhmoe: 100% done, {model['tokens']:,} tokens" in errors
    assert content["split"] == "valid" and model["checkpoint"] == str(checkpoint)
    assert "| mhmoe |" in output and "activation.png" in output


def test_the_batch_size_changes_nothing_without_dropping(analyze, tiny_checkpoint):
    one, other = (analyze(tiny_checkpoint("mhmoe"), "--batch-size", size)[0]["models"][0] for size in (1, 16))
    assert selections(one) == selections(other)
    assert one["gate_entropy"] == pytest.approx(other["gate_entropy"], rel=1e-5)


def test_a_checkpoint_of_two_ranks_gives_the_same(analyze, tiny_checkpoint, tmp_path, capsys):
    spread = tmp_path / "mhmoe" / "checkpoint.pt"
    spread.parent.mkdir()
    assert checkpoint_command(["split", str(tiny_checkpoint("mhmoe")), str(spread), "--size", "2"]) == 0
    capsys.readouterr()
    one, two = (
        analyze(path, "--max-tokens", 200)[0]["models"][0] | {"checkpoint": ""}
        for path in (tiny_checkpoint("mhmoe"), spread)
    )
    assert one == two


def test_models_side_by_side_with_a_dense_one(analyze, tiny_checkpoint, tmp_path):
    names = ["Dense", "Sparse", "Multi-head"]
    checkpoints = [tiny_checkpoint(kind) for kind in ("dense", "smoe", "mhmoe")]
    content, output, _ = analyze(
        *checkpoints, "--max-tokens", 128, "--labels", *names, "--threshold", 0.3, "--thresholds", "0.5,0.1"
    )
    dense, sparse, multi = content["models"]
    assert dense == {"label": "Dense", "checkpoint": str(checkpoints[0]), "experts": None}
    assert "Dense: a dense model, it has no experts to look at" in output and "no experts" in output
    assert [model["label"] for model in (sparse, multi)] == names[1:]
    assert (sparse["experts"], len(sparse["layers"]), multi["experts"], len(multi["layers"])) == (4, 1, 6, 2)
    assert sparse["layers"][0]["layer"] == 1 and sparse["dropped_share"] > 0
    assert content["threshold"] == sparse["activated_experts"]["threshold"] == 0.3
    assert [point["threshold"] for point in multi["curve"]] == [0.1, 0.5]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "activation.json", "activation.png", "activation-thresholds.png"
    }  # fmt: skip


def test_sources_have_figures_and_heat_maps_of_their_own(analyze, tiny_checkpoint, tiny_data_dir, tmp_path):
    data = tmp_path / "data"
    for source, split in (("de", "valid"), ("en", "test")):
        (data / source).mkdir(parents=True)
        for name in ("dict.txt", "spm.model"):
            shutil.copyfile(tiny_data_dir / name, data / name)
        for end in ("bin", "idx"):
            shutil.copyfile(tiny_data_dir / f"{split}.{end}", data / source / f"valid.{end}")
    words = [tiny_checkpoint("mhmoe"), "--max-tokens", 301]
    [model] = analyze(*words, "--by-source", data=data)[0]["models"]
    assert (tmp_path / "out" / "activation-by-source.png").is_file()
    assert list(model["sources"]) == ["de", "en"] and model["tokens"] == 301
    parts = model["sources"].values()
    assert sum(part["tokens"] for part in parts) == 301
    for layer, *of_sources in zip(model["layers"], *(part["layers"] for part in parts), strict=True):
        sums = [sum(counts) for counts in zip(*(part["selections"] for part in of_sources), strict=True)]
        assert layer["selections"] == sums
    [only] = analyze(*words, "--sources", "en", data=data)[0]["models"]
    assert list(only["sources"]) == ["en"] and only["tokens"] == 301
    [part] = analyze(tiny_checkpoint("mhmoe"), "--split", "en/valid", data=data)[0]["models"]
    [expected] = analyze(tiny_checkpoint("mhmoe"), "--split", "test")[0]["models"]
    assert selections(part) == selections(expected)


def test_raw_text_instead_of_a_split(analyze, tiny_checkpoint, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("the city of the river\n\nhistory\n")
    content, _, _ = analyze(tiny_checkpoint("mhmoe"), "--text", path)
    loaded = load_checkpoint(tiny_checkpoint("mhmoe"))
    pieces = sum(len(loaded.text().processor.EncodeAsPieces(line)) + 1 for line in path.read_text().split("\n") if line)
    assert content["models"][0]["tokens"] == pieces
    assert content["text"] == str(path) and "split" not in content


@pytest.mark.parametrize(
    "words, message",
    [
        (["--max-tokens", "0"], "--max-tokens is 0; expected 1 or more"),
        (["--batch-size", "-1"], "--batch-size is -1; expected 1 or more"),
        (["--threshold", "nan"], "--threshold is nan; expected a selection frequency"),
        (["--thresholds", "0.1,x"], "--thresholds 0.1,x: 'x' is no number"),
        (["--thresholds=-1"], "--thresholds -1: -1 is no selection frequency"),
        (["--labels", "a", "b"], "--labels: 2 names for 1 checkpoints"),
        (["--text", "file", "--split", "test"], "--split and --text both say what to read"),
        (["--text", "file", "--sources", "de"], "--sources and --text both say what to read"),
        (["--tokens-per-sample", "64"], "--tokens-per-sample 64: .* takes at most 32 tokens"),
        (["--split", "nothing"], "nothing"),
        (["--sources", "nothing"], "no source 'nothing'"),
    ],
)
def test_what_can_not_be_is_one_line_and_status_2(words, message, analyze, tiny_checkpoint):
    _, _, errors = analyze(tiny_checkpoint("smoe"), *words, status=2)
    [line] = [line for line in errors.splitlines() if line.startswith("mhmoe-analyze: error: ")]
    assert re.search(message, line)


def test_dense_models_alone_are_told_so(analyze, tiny_checkpoint):
    _, _, errors = analyze(tiny_checkpoint("dense"), status=2)
    assert "dense: no experts; this is a dense model, name a checkpoint of a model with MoE layers" in errors


def test_two_checkpoints_of_one_label_are_refused(analyze, tmp_path):
    _, _, errors = analyze(tmp_path / "a.pt", tmp_path / "b.pt", "--labels", "a", "a", status=2)
    assert "--labels: 'a' names several checkpoints; give each its own, as in a-1" in errors


def test_names_of_models_without_labels(tmp_path):
    def labels(*names):
        return default_labels([tmp_path / name for name in names])

    assert labels("smoe/checkpoint_best.pt", "mhmoe/checkpoint_best.pt") == ["smoe", "mhmoe"]
    assert labels("a/checkpoint_1.pt", "a/checkpoint_2.pt") == ["a/checkpoint_1", "a/checkpoint_2"]
    assert labels("x/a/c.pt", "y/a/c.pt") == [str(tmp_path / "x/a/c.pt"), str(tmp_path / "y/a/c.pt")]


def test_thresholds_are_sorted():
    assert parse_thresholds("0.5,0.1,0.5") == [0.1, 0.5] and parse_thresholds(None) == list(THRESHOLDS)
