"""What a comparison of language models has of its own: task, data, evaluation and figures. See reproduce_subjects."""

import json
import os
from pathlib import Path
from typing import Any

from fairseq_mhmoe.cli.demo_models import words_of
from fairseq_mhmoe.cli.demo_programs import data_hash, program, run, say, shorten, show

ARCH = "{}_lm_tiny"
SIDE = "decoder"


def task_settings(scale: Any) -> dict[str, Any]:
    """Options of task, batches and criterion."""
    return {
        "task": "gpt",
        "sampling-alpha": scale.sampling_alpha,
        "sample-break-mode": "none",
        "tokens-per-sample": scale.tokens_per_sample,
        "batch-size": scale.samples_per_batch,
        "update-freq": scale.samples_per_update // scale.samples_per_batch,
        "required-batch-size-multiple": 1,
        "criterion": "moe_cross_entropy",
    }


def shape_words(scale: Any) -> list[str]:
    """What of the task decides a model's cost."""
    return ["--tokens-per-sample", str(scale.tokens_per_sample)]


def evaluation_command(run_: Any, rows: int) -> list[str]:
    """Perplexity by document and source, bits per byte and experts in use, of the last checkpoint."""
    settings = {
        "task": "gpt",
        "path": shorten(run_.folder / "checkpoint_last.pt"),
        "sample-break-mode": "none",
        "tokens-per-sample": run_.scale.tokens_per_sample,
        "batch-size": rows,
        "num-workers": 0,
        "gen-subset": "valid,test",
        "output": shorten(run_.folder / "scores.json"),
    }
    module = [program("python"), "-m", "fairseq_mhmoe.cli.evaluate"]
    return [*module, *run_.place.common_words(), *words_of(settings)]


def read_scores(path: Path) -> dict[str, dict]:
    """What the evaluation wrote, by split, without the long lists."""
    splits = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: {key: value for key, value in figures.items() if not key.startswith("document_")}
        for name, figures in splits.items()
    }


def nll_of(split: dict) -> float:
    """Nats per token of a split."""
    return split["nll"] / split["tokens"]


def figures(splits: dict[str, dict]) -> dict[str, Any]:
    """What results.json has of a run's scores."""
    valid, test = splits["valid"], splits["test"]
    return {
        "valid_ppl": valid["perplexity"],
        "valid_ppl_95": valid["perplexity_95"],
        "valid_nll": nll_of(valid),
        "valid_bits_per_byte": valid["bits_per_byte"],
        "test_ppl": test["perplexity"],
        "test_nll": nll_of(test),
        "test_bits_per_byte": test["bits_per_byte"],
        "sources": {split: of_split.get("sources", {}) for split, of_split in splits.items()},
        "activated_experts": valid["activated_experts"],
    }


def prepare(request: Any) -> None:
    """Make the corpus; its program returns at once when the folder is complete."""
    command = [program("python"), "-m", *request.scale.prepare, "--output", shorten(request.data)]
    show(command)
    say(f"      {run(command, request.output / 'data.log', os.cpu_count() or 1).splitlines()[-1]}")


def read_data(folder: Path) -> tuple[str, int] | None:
    """Hash of a prepared folder, and the size of its vocabulary; None where nothing is prepared."""
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return None
    content = json.loads(manifest.read_text(encoding="utf-8"))
    return data_hash(content), content["dictionary"]["size"]


def picture_commands(runs: list[Any], place: Any) -> dict[str, list[str]]:
    """Analyses beside experts in use and curves."""
    return {}
