"""What a comparison of multimodal models has of its own: task, data, evaluation, figures. See reproduce_subjects."""

import json
from pathlib import Path
from typing import Any

from fairseq_mhmoe.cli.demo_models import words_of
from fairseq_mhmoe.cli.demo_programs import data_hash, fingerprint, program, shorten
from fairseq_mhmoe.cli.multimodal_demo_steps import TOKENIZER, prepare_data, train_tokenizer

ARCH = "{}_multimodal_tiny"
SIDE = "encoder"
MAPPED = 6  # pictures of the validation data over which diversity is drawn


def task_settings(scale: Any) -> dict[str, Any]:
    """Options of task, streams and criterion; a sample of the settings is a pair."""
    pictures, batches = scale.pictures, scale.samples_per_update // scale.samples_per_batch
    return {
        "task": "masked_multimodal",
        "image-augmentation": "none",
        **shape_settings(scale),
        "sampling-alpha": scale.sampling_alpha,
        "batch-size": scale.samples_per_batch,
        "image-batch-size": pictures.image_rows // batches,
        "text-batch-size": pictures.text_rows // batches,
        "update-freq": batches,
        "criterion": "masked_multimodal",
    }


def shape_settings(scale: Any) -> dict[str, Any]:
    """What of the task decides a model's cost."""
    pictures = scale.pictures
    return {
        "image-size": pictures.image_size,
        "patch-size": pictures.patch_size,
        "num-codes": pictures.codes,
        "tokens-per-sample": scale.tokens_per_sample,
        "caption-length": pictures.caption_length,
    }


def shape_words(scale: Any) -> list[str]:
    """What of the task decides a model's cost, as words."""
    return words_of(shape_settings(scale))


def evaluation_command(run_: Any, rows: int) -> list[str]:
    """Perplexity of every stream and experts in use, of the last checkpoint."""
    words = [program("python"), "-m", "fairseq_mhmoe.cli.evaluate_multimodal"]
    words += [shorten(run_.folder / "checkpoint_last.pt"), shorten(run_.place.data), "--split", "valid,test"]
    words += ["--batch-size", str(rows), "--device", run_.place.device]
    return [*words, "--output", shorten(run_.folder / "scores.json")]


def read_scores(path: Path) -> dict[str, dict]:
    """What the evaluation wrote, by split."""
    return json.loads(path.read_text(encoding="utf-8"))["splits"]


def nll_of(split: dict) -> float:
    """Nats per masked position of all streams."""
    return split["all"]["nll"] / split["all"]["masked"]


def figures(splits: dict[str, dict]) -> dict[str, Any]:
    """What results.json has of a run's scores; perplexities of all streams together, and of each as `sources`."""
    valid, test = splits["valid"], splits["test"]
    return {
        "valid_ppl": valid["all"]["perplexity"],
        "valid_ppl_95": None,
        "valid_nll": nll_of(valid),
        "valid_bits_per_byte": None,
        "test_ppl": test["all"]["perplexity"],
        "test_nll": nll_of(test),
        "test_bits_per_byte": None,
        "sources": {split: of_split["streams"] for split, of_split in splits.items()},
        "activated_experts": valid["activated_experts"],
    }


def prepare(request: Any) -> None:
    """Draw pictures, prepare text, train the visual tokenizer; what is complete stays."""
    prepare_data(request, request.scale.prepare)
    train_tokenizer(request, request.scale.pictures)


def read_data(folder: Path) -> tuple[str, int] | None:
    """Hash of a prepared folder, and the size of its vocabulary with <mask>; None where something is missing."""
    manifests = [folder / name / "manifest.json" for name in ("text", "pairs", "images")]
    report = (folder / TOKENIZER).with_suffix(".json")
    if not all(path.exists() for path in (*manifests, report)):
        return None
    text, pairs, images, tokenizer = (json.loads(path.read_text(encoding="utf-8")) for path in (*manifests, report))
    parts = [data_hash(text), pairs["fingerprint"], images["fingerprint"], tokenizer["fingerprint"]]
    return fingerprint(*parts), text["dictionary"]["size"] + 1


def picture_commands(runs: list[Any], place: Any) -> dict[str, list[str]]:
    """Maps of diversity over pictures (v1, figure 8) of the first seed of MH-MoE."""
    run_ = next((run_ for run_ in runs if run_.model.spec.family == "mhmoe"), None)
    drawn = sorted((place.data / "drawn/captions-valid").glob("*.png"))[:MAPPED]
    if run_ is None or not drawn:
        return {}
    words = [program("python"), "-m", "fairseq_mhmoe.cli.analyze", "diversity"]
    words += [shorten(run_.folder / "checkpoint_last.pt"), "--images", *map(shorten, drawn)]
    return {"diversity": [*words, "--labels", run_.model.spec.title, "--device", place.device]}
