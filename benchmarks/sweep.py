"""Many small trainings that differ in a few options: runs those that are missing, and puts their curves in one file.

    python benchmarks/sweep.py benchmarks/sweeps/english.json --data data/reproduce-english --output runs/sweeps
    python benchmarks/sweep.py benchmarks/sweeps/english.json --data data/reproduce-english --table

The file names the options of fairseq-train that all runs share ("common") and those of each ("runs"). A run is one
process with one thread; its log is OUTPUT/NAME/train.log. A run is complete when its log has the validation after its
last update. Beside the settings FILE.results.json collects options, parameters, training FLOPs per token and curves.
"""

import argparse
import json
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import commit

from fairseq_mhmoe.cli.cost_models import words_model
from fairseq_mhmoe.cli.demo_models import words_of
from fairseq_mhmoe.cli.demo_programs import PACKAGE, log_figures, program, run, shorten
from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.moe.cost import model_cost

# Figures of a training line that tell what the router does.
TRAINING = ("nll_loss", "gnorm", "moe_entropy", "moe_load_max", "moe_active")


def read_settings(path: Path) -> dict[str, dict]:
    """Name of each run -> its complete options.

    Raises:
        ValueError: the file is not as the top of this program says.
    """
    try:
        content = json.loads(path.read_text())
        return {name: content["common"] | options for name, options in content["runs"].items()}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected JSON with 'common' and 'runs', each of options: {error!r}") from None


def read_curves(log: Path) -> dict:
    """Validation [update, perplexity], training [update, figures of TRAINING], and the median of tokens a second."""
    valid, training, speeds = [], [], []
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        if (figures := log_figures(line, "valid")) is not None:
            valid.append([int(figures["valid_num_updates"]), float(figures["valid_ppl"])])
        elif (figures := log_figures(line, "train_inner")) is not None:
            speeds.append(float(figures["wps"]))
            training.append(
                [int(figures["num_updates"]), *(float(figures[k]) if k in figures else None for k in TRAINING)]
            )
    return {"valid": valid, "train": training, "tokens_per_s": statistics.median(speeds) if speeds else None}


def is_complete(curves: dict, options: dict) -> bool:
    """Whether the run was validated after its last update."""
    return any(update == options["max-update"] for update, _ in curves["valid"])


def train(name: str, options: dict, data: Path, folder: Path) -> None:
    """One training; its output goes to the log, of which an incomplete one is replaced."""
    log = folder / "train.log"
    log.unlink(missing_ok=True)
    places = [shorten(data), "--user-dir", shorten(PACKAGE), "--cpu", "--distributed-world-size", "1"]
    places += ["--save-dir", shorten(folder), "--no-save", "--num-workers", "0", "--log-format", "json"]
    start = time.monotonic()
    run([program("fairseq-train"), *places, *words_of(options)], log, threads=1)
    final = read_curves(log)["valid"][-1][1]
    print(f"{name}: perplexity {final:.2f} after {time.monotonic() - start:.0f} s", flush=True)


def results_of(runs: dict[str, dict], output: Path, vocab_size: int) -> dict:
    """Options, cost and curves of every complete run."""
    found = {}
    for name, options in runs.items():
        curves = read_curves(output / name / "train.log")
        if is_complete(curves, options):
            cost = model_cost(words_model(words_of(options), vocab_size).shape)
            cost = {"params_total": cost.params_total, "flops_per_token": cost.flops_per_token}
            found[name] = {"options": options} | cost | curves
    return found


def table(results: dict) -> str:
    """A Markdown table: parameters, FLOPs, updates, perplexity, and what the router did at the end."""
    lines = ["| run | parameters | MFLOPs/token | lr | seed | updates | valid ppl | gate entropy | load max |"]
    lines.append("|---|" + "---:|" * 8)
    for name, found in results.items():
        options, (update, perplexity), last = found["options"], found["valid"][-1], found["train"][-1]
        figures = dict(zip(TRAINING, last[1:], strict=True))
        routing = [figures["moe_entropy"], figures["moe_load_max"]]
        routing = " | ".join("-" if value is None else f"{value:.2f}" for value in routing)
        lines.append(
            f"| {name} | {found['params_total'] / 1e6:.2f}M | {found['flops_per_token'] / 1e6:.1f} | {options['lr']} "
            f"| {options['seed']} | {update} | {perplexity:.1f} | {routing} |"
        )
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    """Command line; a wrong file ends the program with one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=Path, help="JSON file, for example benchmarks/sweeps/english.json")
    parser.add_argument("--data", type=Path, required=True, help="prepared folder")
    parser.add_argument("--output", type=Path, default=Path("runs/sweeps"), help="logs (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time (default: one a core)")
    parser.add_argument("--table", action="store_true", help="train nothing, print the table of what is there")
    arguments = parser.parse_args(words)
    path = arguments.settings.with_suffix(".results.json")
    try:
        if arguments.table and path.exists():
            print(table(json.loads(path.read_text())["runs"]))
            return
        runs = read_settings(arguments.settings)
        size = json.loads((arguments.data / "manifest.json").read_text())["dictionary"]["size"]
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    missing = [
        (name, options, arguments.data, arguments.output / name)
        for name, options in runs.items()
        if not is_complete(read_curves(arguments.output / name / "train.log"), options)
    ]
    with ThreadPoolExecutor(max(1, arguments.jobs)) as pool:
        for future in [pool.submit(train, *one) for one in missing if not arguments.table]:
            future.result()
    results = results_of(runs, arguments.output, size)
    write_json(path, {"commit": commit(), "training_figures": ["update", *TRAINING], "runs": results})
    print(table(results))


if __name__ == "__main__":
    main()
