"""Programs that look into a multimodal checkpoint: scores by stream, experts in use by modality, maps over images."""

import json
import math
import re

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from fairseq_mhmoe.analysis.activation_streams import stream_batches
from fairseq_mhmoe.analysis.image_maps import read_image
from fairseq_mhmoe.cli.analyze import main as analyze
from fairseq_mhmoe.cli.evaluate_multimodal import main as evaluate
from fairseq_mhmoe.data.image_transforms import fit_image
from fairseq_mhmoe.evaluation.loading import load_checkpoint
from fairseq_mhmoe.evaluation.stream_routing import route_stream

from ..multimodal_data import draw
from ..multimodal_training import MULTIMODAL, multimodal_words

KINDS = {
    "shared": dict(arch="mhmoe_multimodal_tiny"),
    "separate": dict(arch="mhmoe_multimodal_tiny", moe_modality="separate"),
    "dense": dict(arch="dense_multimodal_tiny"),
}
PATCHES = (MULTIMODAL["image_size"] // MULTIMODAL["patch_size"]) ** 2


@pytest.fixture(scope="module")
def checkpoints(multimodal_data_dir, run_cli, tmp_path_factory):
    """checkpoints(kind) -> files after 1 and 2 updates."""
    done = {}

    def trained(kind):
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind)
            saving = dict(max_update=2, save_interval_updates=1, no_epoch_checkpoints=None, no_last_checkpoints=True)
            words = multimodal_words(
                multimodal_data_dir, folder, **{**KINDS[kind], **saving, "disable_validation": True}
            )
            run_cli("fairseq-train", *words)
            done[kind] = [folder / f"checkpoint_1_{number}.pt" for number in (1, 2)]
        return done[kind]

    return trained


@pytest.fixture
def pictures(tmp_path):
    for number in (1, 2):
        (tmp_path / f"picture-{number}.png").write_bytes(draw(number))
    return [tmp_path / f"picture-{number}.png" for number in (1, 2)]


def words(*parts):
    return [*map(str, parts), "--device", "cpu"]


def test_the_training_split_is_scored_as_any_other(checkpoints, multimodal_data_dir):
    task = load_checkpoint(checkpoints("dense")[1], multimodal_data_dir, "cpu", kinds=("multimodal",)).task
    task.load_dataset("train")
    data = task.dataset("train")
    assert not data.training and not any(s.images.transform.random for s in data.streams.values() if s.images)


def test_scores_are_sums_over_the_streams(checkpoints, multimodal_data_dir, tmp_path, capsys):
    path = tmp_path / "scores.json"
    assert evaluate(words(checkpoints("separate")[1], multimodal_data_dir, "--batch-size", 2, "--output", path)) == 0
    content = json.loads(path.read_text())
    scores = content["splits"]["valid"]
    assert content["updates"] == 2 and "pair text" in capsys.readouterr().out
    parts = scores["streams"]
    assert [parts[name]["masked"] for name in ("image", "pair_image")] == [3 * 6, 5 * 6]
    for name, of in (("all", parts), ("image", ["image", "pair_image"]), ("text", ["text", "pair_text"])):
        assert scores[name]["masked"] == sum(parts[part]["masked"] for part in of)
        assert scores[name]["nll"] == pytest.approx(sum(parts[part]["nll"] for part in of))
        assert scores[name]["perplexity"] == pytest.approx(2 ** scores[name]["bits"])
        assert scores[name]["perplexity"] == pytest.approx(math.exp(scores[name]["nll"] / scores[name]["masked"]))
    assert 0 < scores["activated_experts"]["per_sub_token"] <= 1
    # another number of rows per batch changes nothing
    assert evaluate(words(checkpoints("separate")[1], multimodal_data_dir, "--batch-size", 64, "--output", path)) == 0
    again = json.loads(path.read_text())["splits"]["valid"]["streams"]
    for part in parts:
        assert again[part] == pytest.approx(parts[part], rel=1e-4)


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_experts_in_use_by_modality(kind, checkpoints, multimodal_data_dir, tmp_path, capsys):
    output = ["--output", tmp_path, "--batch-size", 2, "--max-records", 3, "--by-source"]
    assert analyze(words("activation", checkpoints(kind)[1], multimodal_data_dir, *output)) == 0
    [model] = json.loads((tmp_path / "activation.json").read_text())["models"]
    loaded = load_checkpoint(checkpoints(kind)[1], device="cpu", kinds=("multimodal",))
    _, batches = stream_batches(loaded, "valid", 1, max_records=3)
    texts = {"text": 0, "pair": 0}
    found = {}
    for batch in batches:
        routed = route_stream(loaded, batch.images, batch.tokens)
        for modality, layers in (("image", routed.image), ("text", routed.text)):
            for layer in layers:
                name = f"pair {modality}" if batch.stream == "pair" else batch.stream
                counts = found.setdefault(name, torch.zeros(4).long())
                counts += torch.bincount(layer.wanted.flatten(), minlength=4)
                texts[batch.stream] = texts.get(batch.stream, 0) + (layer.wanted.shape[1] if modality == "text" else 0)
    assert found.keys() == model["sources"].keys() == {"image", "text", "pair image", "pair text"}
    for name, source in model["sources"].items():
        [layer] = source["layers"]
        assert layer["selections"] == found[name].tolist()
        modality = "text" if "text" in name else "image"
        assert str(layer["layer"]) == ("1" if kind == "shared" else f"1_{modality}")
    tokens = {name: source["tokens"] for name, source in model["sources"].items()}
    assert tokens == {
        "image": 3 * (1 + PATCHES), "pair image": 3 * (1 + PATCHES), "text": texts["text"], "pair text": texts["pair"]
    }  # fmt: skip
    assert model["tokens"] == sum(tokens.values())


def test_texts_for_analysis_have_no_masks(checkpoints, multimodal_data_dir):
    loaded = load_checkpoint(checkpoints("shared")[0], device="cpu", kinds=("multimodal",))
    _, batches = stream_batches(loaded, "valid", 2, ["text", "pair"])
    mask = loaded.dictionary.index("<mask>")
    assert not any((batch.tokens == mask).any() for batch in batches)


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_maps_over_images(kind, checkpoints, pictures, tmp_path, capsys):
    output = tmp_path / "maps"
    assert analyze(words("diversity", *checkpoints(kind), "--images", *pictures, "--output", output)) == 0
    content = json.loads((output / "diversity-images.json").read_text())
    assert [each["label"] for each in content["checkpoints"]] == ["update 1", "update 2"]
    loaded = load_checkpoint(checkpoints(kind)[1], device="cpu", kinds=("multimodal",))
    for image, path in zip(content["images"], pictures, strict=True):
        pixels = fit_image(read_image(path), MULTIMODAL["image_size"])
        [layer] = route_stream(loaded, images=pixels[None]).image
        by_hand = [len(set(choices.flatten().tolist())) for choices in layer.wanted[0, 1:]]
        assert np.array(image["checkpoints"]["update 2"]["patches"]).flatten().tolist() == by_hand
        assert len(by_hand) == PATCHES
        assert imread(output / image["picture"]).shape[1] > 300


@pytest.mark.parametrize(
    "kind, parts, message",
    [
        ("dense", ["diversity", "CHECKPOINT", "--images", "PICTURE"], "is a dense model: no token goes to an expert"),
        ("shared", ["diversity", "CHECKPOINT", "--images", "nothing.png"], "--images: no file nothing.png"),
        ("shared", ["diversity", "CHECKPOINT", "--images", "PICTURE", "--top", "3"], "--top: about text, and --images"),
        ("shared", ["diversity", "CHECKPOINT", "DATA"], "holds no language model .*it is a multimodal model"),
        ("shared", ["activation", "CHECKPOINT", "DATA", "--max-tokens", "5"], "--max-tokens: for language models"),
        ("shared", ["activation", "CHECKPOINT", "DATA", "--streams", "video"], "--streams video: expected different"),
        ("shared", ["activation", "CHECKPOINT", "DATA", "--max-records", "0"], "--max-records is 0; expected 1"),
    ],
)
def test_what_cant_be_is_refused(kind, parts, message, checkpoints, multimodal_data_dir, pictures, tmp_path, capsys):
    names = {"CHECKPOINT": checkpoints(kind)[1], "DATA": multimodal_data_dir, "PICTURE": pictures[0]}
    assert analyze(words(*(names.get(part, part) for part in parts), "--output", tmp_path)) == 2
    assert re.search(message, capsys.readouterr().err)


def test_language_models_are_refused(tiny_checkpoint, tiny_data_dir, pictures, tmp_path, capsys):
    checkpoint = tiny_checkpoint("mhmoe")
    assert evaluate(words(checkpoint, tiny_data_dir)) == 2
    assert "holds no multimodal model of fairseq_mhmoe" in capsys.readouterr().err
    assert analyze(words("activation", checkpoint, tiny_data_dir, "--streams", "pair", "--output", tmp_path)) == 2
    assert "--streams: for multimodal models" in capsys.readouterr().err
