"""Scores of fine-tuned models, and one table of those of several.

python -m fairseq_mhmoe.cli.finetuning_table runs/*/scores.json
"""

import argparse
import json
import sys
from pathlib import Path

from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.cli.text_table import text_table
from fairseq_mhmoe.cli.user_dir import add_user_dir

HEADER = ("task", "split", "examples", "metric", "value", "checkpoint")


def model_parser(program: str, description: str) -> argparse.ArgumentParser:
    """The command line of a program that asks a fine-tuned model about a split."""
    parser = argparse.ArgumentParser(
        prog=f"python -m fairseq_mhmoe.cli.{program}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="of the fine-tuned model, for example checkpoint_best.pt")
    parser.add_argument("data", type=Path, help="folder of index files")
    parser.add_argument("--split", default="test", help="split to answer (default: test)")
    parser.add_argument("--output", type=Path, help="folder for the results (default: beside the checkpoint)")
    parser.add_argument("--image-root", help="folder that the images' paths start from (default: as in training)")
    parser.add_argument("--text-data", help="folder of dict.txt and spm.model (default: as in training)")
    parser.add_argument("--batch-size", type=int, default=16, help="examples at once")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that read images")
    parser.add_argument("--log-format", help="of the progress bar: tqdm, simple, json or none")
    parser.add_argument("--cpu", action="store_true", help="leave the GPU alone")
    add_user_dir(parser)
    return parser


def load_model(arguments: argparse.Namespace, task: str, **changes):
    """The model of the command line, as `evaluation.loading.load_checkpoint`; ValueError for one of another task."""
    from fairseq_mhmoe.evaluation.loading import load_checkpoint

    if arguments.batch_size < 1 or arguments.num_workers < 0:
        raise ValueError("--batch-size: expected 1 or more; --num-workers: 0 or more")
    changes |= {"image_root": arguments.image_root, "text_data": arguments.text_data}
    loaded = load_checkpoint(
        arguments.checkpoint,
        arguments.data,
        device="cpu" if arguments.cpu else None,
        task_changes={name: value for name, value in changes.items() if value is not None},
        kinds=("multimodal",),
    )
    if loaded.cfg.task._name != task:
        raise ValueError(f"{arguments.checkpoint} was trained for task {loaded.cfg.task._name}, expected {task}")
    return loaded


def scores_of(arguments: argparse.Namespace, task: str, examples: int, metrics: dict) -> dict:
    """What goes into a file of scores.

    Args:
        metrics: {name: number, or a dictionary of numbers}.
    """
    return {
        "task": task,
        "split": arguments.split,
        "checkpoint": str(arguments.checkpoint),
        "examples": examples,
        "metrics": metrics,
    }


def rows_of(scores: dict) -> list[list[str]]:
    """Cells of a row for each metric."""
    start = [scores["task"], scores["split"], f"{scores['examples']:,}"]
    rows = []
    for name, value in scores["metrics"].items():
        parts = (
            {f"{name}: {part}": number for part, number in value.items()} if isinstance(value, dict) else {name: value}
        )
        for metric, number in parts.items():
            shown = f"{number:.2f}" if isinstance(number, float) else str(number)
            rows.append([*start, metric, shown, scores["checkpoint"]])
    return rows


def table(scores: list[dict]) -> str:
    """The rows of several files under one header."""
    return text_table(HEADER, [row for each in scores for row in rows_of(each)])


def report(path: Path, scores: dict) -> None:
    """Write the scores, and print them as a table if there are any."""
    write_json(path, scores)
    if scores["metrics"]:
        print(table([scores]))


def main(words: list[str] | None = None) -> None:
    """Command line: files of scores; status 1 and one line when one is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="+", help="files that the evaluations wrote")
    scores = []
    for path in parser.parse_args(words).scores:
        try:
            scores.append(json.loads(path.read_text(encoding="utf-8")))
            rows_of(scores[-1])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            sys.exit(f"error: {path} holds no scores of a fine-tuned model: {error!r}; evaluate again")
    print(table(scores))


if __name__ == "__main__":
    main()
