"""What scripts/evaluate.sh needs around its two programs: how a checkpoint was trained, and one table of all figures.

python -m fairseq_mhmoe.cli.evaluation_table settings CHECKPOINT    its hash, data folder and tokens per sample
python -m fairseq_mhmoe.cli.evaluation_table table FOLDER           FOLDER/evaluation.md and evaluation.json
"""

import argparse
import json
import sys
from pathlib import Path

from data_prep.files import sha256_of
from fairseq_mhmoe.cli.files import write_bytes, write_json
from fairseq_mhmoe.cli.score_table import rows_of, table
from fairseq_mhmoe.cli.text_table import text_table

SCORES, TASKS = "scores.json", "lm-eval/results.json"
LISTS = ("document_nll", "document_tokens")  # of each document: too long for a table


def settings(checkpoint: Path) -> list[str]:
    """Three lines: SHA-256 of a checkpoint, its data folder, and the length of its blocks.

    Raises:
        ValueError: no checkpoint of a language model.
    """
    from fairseq_mhmoe.checkpoint.loading import load

    if not checkpoint.is_file():
        raise ValueError(f"no checkpoint {checkpoint}; expected a file such as checkpoint_best.pt")
    task = ((load(checkpoint, mmap=True).get("cfg") or {}).get("task")) or {}
    if not task.get("data") or not task.get("tokens_per_sample"):
        raise ValueError(f"{checkpoint} does not say what it was trained on; expected one of fairseq-train --task gpt")
    return [sha256_of(checkpoint), str(task["data"]).split(":")[0], str(task["tokens_per_sample"])]


def task_rows(results: dict) -> list[list[str]]:
    """Cells of a row for each metric of each task: task, records, examples, metric, value, standard error."""
    rows = []
    for task, figures in results["results"].items():
        for key, value in figures.items():
            metric, comma, name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, float | int):
                continue
            error = figures.get(f"{metric}_stderr,{name}")
            rows.append(
                [
                    task,
                    f"{figures.get('sample_len', 0):,}",
                    str(results["n-shot"].get(task, "-")),
                    metric if name == "none" else f"{metric} ({name})",
                    f"{value:.4f}",
                    f"{error:.4f}" if isinstance(error, float) else "-",
                ]
            )
    return rows


def combine(folder: Path) -> tuple[str, dict]:
    """The table as Markdown, and its figures; ValueError where a file is missing or is something else."""
    try:
        scores = json.loads((folder / SCORES).read_text(encoding="utf-8"))
        results = json.loads((folder / TASKS).read_text(encoding="utf-8"))
        text = "# Perplexity\n\n" + table(rows_of(scores)) + "\n\n# Tasks\n\n"
        header = ["task", "records", "examples", "metric", "value", "standard error"]
        text += text_table(header, task_rows(results)) + "\n"
        figures = {
            "model": results["model"],
            "perplexity": {split: short(found) for split, found in scores.items()},
            "tasks": results["results"],
            "task_hashes": results["task_hashes"],
            "task_versions": results["versions"],
            "task_data": results["data"],
            "task_settings": results["settings"],
            "lm_eval_version": results["lm_eval_version"],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}: {error!r}; evaluate again with scripts/evaluate.sh") from None
    limit = results["settings"]["limit"]
    if limit is not None:
        text += f"\nOf each task only the first records (--limit {limit:g}): a trial, not a result.\n"
    return text, figures


def short(found: dict) -> dict:
    """Scores without those of each document."""
    return {name: value for name, value in found.items() if name not in LISTS}


def main(words: list[str] | None = None) -> int:
    """Command line; returns the exit status and says errors in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("settings").add_argument("path", type=Path)
    commands.add_parser("table").add_argument("path", type=Path)
    arguments = parser.parse_args(words)
    try:
        if arguments.command == "settings":
            print("\n".join(settings(arguments.path)))
        else:
            text, figures = combine(arguments.path)
            write_bytes(arguments.path / "evaluation.md", text.encode())
            write_json(arguments.path / "evaluation.json", figures)
            print(text)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
