"""Losses, accuracies and perplexities of a masked multimodal checkpoint, stream by stream.

    python -m fairseq_mhmoe.cli.evaluate_multimodal runs/beit3/checkpoint_best.pt data/multimodal --split valid,test

Every record of a split once, with the masks of validation, which are the same for all models. Prints all figures as
JSON; with --output FILE they go there, and a table is printed. `perplexity` is 2 ^ (mean bits of all masked positions),
codes of images and tokens of text together: docs/multimodal.md tells what that mixes.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from fairseq import utils

from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.cli.messages import warnings_only
from fairseq_mhmoe.cli.text_table import text_table
from fairseq_mhmoe.cli.user_dir import add_user_dir
from fairseq_mhmoe.criterions.stream_metrics import KEY, MODALITIES, PARTS
from fairseq_mhmoe.evaluation.activation import activated_experts
from fairseq_mhmoe.evaluation.loading import Loaded, load_checkpoint
from fairseq_mhmoe.evaluation.perplexity import perplexity

SECONDS_BETWEEN_LINES = 10.0
DEFINITION = (
    "perplexity: 2 ^ (mean bits per masked position); of all: every masked position of every stream counts once, codes "
    "of image patches and tokens of text alike; of a modality: its positions in its own stream and in pairs"
)


def evaluate(loaded: Loaded, split: str, batch_size: int, label: str = "") -> dict:
    """Score a split: {"all", "image", "text" (modalities), "streams": {part: ...}, "activated_experts"}.

    Raises:
        ValueError: no such split, or a checkpoint of another task.
    """
    if not hasattr(loaded.task, "batch_sizes"):
        raise ValueError(
            f"{loaded.path} was trained with task {loaded.cfg.task._name}; expected a checkpoint of task "
            "masked_multimodal (fine-tuned models have programs of their own, see docs/finetuning.md)"
        )
    criterion = loaded.task.build_criterion(loaded.cfg.criterion)
    criterion.eval()
    sums = torch.zeros(3, len(PARTS), dtype=torch.float64)
    stats: dict[str, torch.Tensor] = {}
    for sample in batches_of(loaded, split, batch_size, label or str(loaded.path)):
        with torch.inference_mode():
            _, _, logged = loaded.task.valid_step(sample, loaded.model, criterion)
        sums += logged[KEY].cpu()
        for key in (key for key in logged if key.endswith("_stats")):
            stats[key] = stats.get(key, 0) + logged[key].double().cpu()
    if not sums[1].any():
        raise ValueError(f"split {split!r} has no masked position to score")
    layers = loaded.moe_layers()
    config = layers[0][1].config if layers else None
    activation = activated_experts(list(stats.values()), config.top_k, config.heads) if config else None
    of_modality = {
        modality: [column for column, part in enumerate(PARTS.values()) if part[1] == modality]
        for modality in MODALITIES
    }
    return {
        "all": figures(sums.sum(1)),
        **{modality: figures(sums[:, columns].sum(1)) for modality, columns in of_modality.items()},
        "streams": {name: figures(sums[:, column]) for column, name in enumerate(PARTS)},
        "activated_experts": asdict(activation) if activation else None,
    }


def figures(sums: torch.Tensor) -> dict | None:
    """Figures of [nll in nats, masked positions, correct ones]; None where nothing is masked."""
    nll, masked, correct = sums.tolist()
    if not masked:
        return None
    return {
        "masked": int(masked),
        "nll": nll,
        "bits": nll / masked / math.log(2),
        "perplexity": perplexity(nll, int(masked)),
        "accuracy": correct / masked,
    }


def batches_of(loaded: Loaded, split: str, batch_size: int, label: str) -> Iterator[dict]:
    """Batches of a split on the model's device; says from time to time how far it is."""
    task = loaded.task
    task.load_dataset(split)
    iterator = task.get_batch_iterator(task.dataset(split), max_sentences=batch_size, disable_iterator_cache=True)
    batches = iterator.next_epoch_itr(shuffle=False)
    begin = said = time.monotonic()
    for number, sample in enumerate(batches, 1):
        yield utils.move_to_cuda(sample, loaded.device) if loaded.device.type == "cuda" else sample
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES:
            said = now
            left = (now - begin) * (len(batches) - number) / number
            print(f"{label}, {split}: {number:,} of {len(batches):,} batches, {left:.0f} s left", file=sys.stderr)


def table(results: dict[str, dict]) -> str:
    """One line for each split and part."""
    rows = []
    for split, result in results.items():
        parts = {"all": result["all"], "all image codes": result["image"], "all text": result["text"]}
        for name, of_part in {**parts, **result["streams"]}.items():
            if of_part:
                numbers = f"{of_part['masked']:,}", f"{of_part['bits']:.4f}", f"{of_part['perplexity']:.2f}"
                rows.append([split, name.replace("_", " "), *numbers, f"{of_part['accuracy']:.1%}"])
    return text_table(["split", "stream", "masked positions", "bits", "perplexity", "accuracy"], rows)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fairseq_mhmoe.cli.evaluate_multimodal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="of task masked_multimodal")
    parser.add_argument("data", type=Path, metavar="DATA", help="data folder of the task")
    parser.add_argument("--split", default="valid", help="one or more with commas (default: valid)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="B", help="rows of each stream (default: 32)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all figures as JSON")
    add_user_dir(parser)
    return parser


def run(arguments: argparse.Namespace) -> dict:
    """Score the splits; the content of the JSON file.

    Raises:
        ValueError: as `load_checkpoint` and `evaluate`.
    """
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size is {arguments.batch_size}; expected 1 or more")
    # the sizes of the training's batches matter to nobody here; a stream that was off stays off
    loaded = load_checkpoint(arguments.checkpoint, arguments.data, arguments.device, kinds=("multimodal",))
    task = loaded.task.args
    for stream in ("image", "text", "pair"):
        if getattr(task, f"{stream}_batch_size", None):
            setattr(task, f"{stream}_batch_size", None)
    splits = {split: evaluate(loaded, split, arguments.batch_size) for split in arguments.split.split(",")}
    return {
        "checkpoint": str(arguments.checkpoint),
        "data": str(arguments.data),
        "updates": loaded.updates,
        "definition": DEFINITION,
        "splits": splits,
    }


def main(words: list[str] | None = None) -> int:
    """Command line; returns the exit status and says errors in one line."""
    if words is None:
        warnings_only()
    arguments = make_parser().parse_args(words)
    try:
        result = run(arguments)
        if arguments.output:
            write_json(arguments.output, result)
    except (ValueError, OSError) as error:
        print(f"evaluate_multimodal: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(table(result["splits"]) if arguments.output else json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
