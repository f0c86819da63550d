"""An evaluation with lm-evaluation-harness from tasks to figures, as plain data."""

import json
import logging
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from lm_eval.evaluator import evaluate
from lm_eval.utils import handle_non_serializable

from fairseq_mhmoe.evaluation.harness import HarnessModel
from fairseq_mhmoe.evaluation.harness_cache import key_of
from fairseq_mhmoe.evaluation.harness_tasks import Tasks, load_tasks

logger = logging.getLogger(__name__)

# the harness's own defaults
BOOTSTRAPS = 100_000
PLACES = ("cache_dir", "data_files")  # of dataset_kwargs: where data are, not what they are


@dataclass(frozen=True)
class Questions:
    """What is asked.

    Args:
        tasks: names of tasks, groups and tags of the harness, or of ours.
        local_data: folder with <task>/<split>.jsonl, or None.
        shots: examples before each question; None: as many as each task says (0 where it says nothing).
        limit: first records of each task, or a share below 1 of them; None: all.
        seed: of the choice of examples, and of sampled texts.
    """

    tasks: Sequence[str]
    local_data: Path | None = None
    shots: int | None = None
    limit: float | None = None
    seed: int = 1234


def run(model: HarnessModel, questions: Questions) -> dict:
    """Ask a model, and return the harness's figures with what is needed to tell what they are figures of.

    Returns:
        results, groups, configs, versions, n-shot, n-samples, ... of the harness; task_hashes (of prompts, choices and
        data), model, data (local files), settings, computed, seconds; samples: each request with its answer.
    Raises:
        ValueError: as `load_tasks`; --num-fewshot without records to take examples from.
    """
    start = time.monotonic()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(questions.seed)
    with tempfile.TemporaryDirectory(prefix="mhmoe-lm-eval-") as scratch:
        tasks = load_tasks(questions.tasks, questions.local_data, Path(scratch))
        local = {name: data.summary() for name, data in tasks.local.items()}
        choose_examples(tasks, questions)
        found = evaluate(
            model,
            tasks.loaded,
            limit=questions.limit,
            bootstrap_iters=BOOTSTRAPS if model.job[0] == 0 else 0,
            log_samples=True,
        )
    samples = found.pop("samples")
    found["task_hashes"] = {name: key_of([hashes_of(sample) for sample in samples[name]]) for name in samples}
    for config in found["configs"].values():
        for place in PLACES:
            (config.get("dataset_kwargs") or {}).pop(place, None)
    found["model"] = model_figures(model)
    found["data"] = local
    found["settings"] = {"num_fewshot": questions.shots, "limit": questions.limit, "seed": questions.seed}
    found["lm_eval_version"] = version("lm_eval")
    found["computed"] = dict(model.counts)
    found["seconds"] = round(time.monotonic() - start, 1)
    found["samples"] = samples
    return json.loads(json.dumps(found, default=handle_non_serializable))


def choose_examples(tasks: Tasks, questions: Questions) -> None:
    """How many examples stand before a question; where a task itself says 0, none, whatever is asked for."""
    for name, task in tasks.loaded["tasks"].items():
        own = task.get_config("num_fewshot")
        shots = own or 0
        if questions.shots is not None:
            if own == 0 and questions.shots:
                logger.warning(f"{name} is without examples by its definition: --num-fewshot does not apply to it")
            else:
                shots = questions.shots
        if shots and name in tasks.local and not tasks.local[name].has_examples:
            splits = tasks.local[name].splits
            expected = splits.get("fewshot_split") or splits.get("training_split") or "train"
            raise ValueError(
                f"{name} with {shots} examples: --local-data has no {name}/{expected}.jsonl to take them from"
            )
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=questions.seed)
        data = tasks.local.get(name)
        if data is not None and data.evaluated != data.official:
            logger.warning(
                f"{name}: evaluated on {data.evaluated}.jsonl; with the hub's data it would be {data.official}"
            )


def hashes_of(sample: dict) -> list:
    """What tells one record of a task, as it was asked, from another one."""
    return [sample["doc_hash"], sample["prompt_hash"], sample["target_hash"]]


def model_figures(model: HarnessModel) -> dict:
    """What tells one model from another, as plain numbers."""
    loaded = model.loaded
    layers = [layer.config for _, layer in loaded.moe_layers()]
    return {
        "checkpoint": str(loaded.path),
        "checkpoint_sha256": model.checkpoint_sha256,
        "architecture": str(loaded.cfg.model.get("arch") or loaded.cfg.model["_name"]),
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "layers": len(loaded.model.decoder.layers),
        "moe_layers": len(layers),
        "experts": layers[0].num_experts if layers else 0,
        "top_k": layers[0].top_k if layers else 0,
        "heads": layers[0].heads if layers else 0,
        "longest": loaded.longest,
        "dtype": str(next(loaded.model.parameters()).dtype).removeprefix("torch."),
        "data": str(loaded.data),
    }
