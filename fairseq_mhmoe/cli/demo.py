"""The demonstration: dense, X-MoE and MH-MoE models of equal training FLOPs, trained and compared on the CPU.

Started by `bash scripts/run.sh`. Every step runs a stock program whose command line is shown; finished steps are
skipped, interrupted training goes on from its checkpoint.
"""

import argparse
import json
import os
import shlex
import time
from functools import partial
from pathlib import Path

import fairseq_mhmoe
from fairseq_mhmoe.cli.demo_models import UPDATES, demo_models, training_words
from fairseq_mhmoe.cli.demo_programs import StepFailed, code_hash, data_hash, fingerprint, minutes, say
from fairseq_mhmoe.cli.demo_report import LEGEND, current_commit, make_row, table
from fairseq_mhmoe.cli.demo_steps import Place, evaluate, prepare_data, train
from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.cli.work_folder import locked, once, program_of_steps

ROOT = Path(fairseq_mhmoe.__file__).resolve().parents[1]
DEFAULT_DATA = Path("data/demo-english")


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """The options of the demonstration; a wrong one ends the program with a usage text."""
    parser = argparse.ArgumentParser(prog="python -m fairseq_mhmoe.cli.demo", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="prepared folder (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="results (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=UPDATES, help="per model (default: %(default)s)")
    names = ["dense", "xmoe", "mhmoe"]
    parser.add_argument("--models", nargs="+", choices=names, default=names, help="which of them (default: all)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all, %(default)s)")
    arguments = parser.parse_args(words)
    for name in ("updates", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} {getattr(arguments, name)}: expected 1 or more")
    return arguments


def main(words: list[str] | None = None) -> None:
    """Run the demonstration in its folder, which no other one may use at the same time."""
    arguments = parse_arguments(words)
    with program_of_steps(), locked(arguments.output, "demonstration"):
        demonstrate(arguments)


def demonstrate(arguments: argparse.Namespace) -> None:
    """Prepare the data, train and evaluate each model, print the table and write results.json."""
    start = time.monotonic()
    place = Place(arguments.data, arguments.output, arguments.threads)
    if place.data == DEFAULT_DATA:
        say("[data] English Wikipedia articles")
        prepare_data(place)
    if not (place.data / "manifest.json").exists():
        raise StepFailed(f"{place.data} has no manifest.json; name a folder that data_prep has written")
    manifest = json.loads((place.data / "manifest.json").read_text())
    models = [model for model in demo_models(manifest["dictionary"]["size"]) if model.name in arguments.models]
    key_of = partial(fingerprint, training_words(arguments.updates), data_hash(manifest), code_hash())
    rows = []
    for number, model in enumerate(models, 1):
        title, folder, key = f"[{number} of {len(models)}] {model.name}", place.output / model.name, key_of(model.words)
        training = partial(train, place, model, arguments.updates)
        trained = once(f"{title}: training", folder / "training.json", key, training)
        scored = once(f"{title}: evaluation", folder / "evaluation.json", key, partial(evaluate, place, model))
        rows.append(make_row(model, trained, scored["splits"]))
    results = {"models": rows, "commit": current_commit(ROOT), "command": command_line(arguments)}
    write_json(place.output / "results.json", results)
    say(f"\n{table(rows)}\n\n{LEGEND}")
    say(f"\nwritten to {place.output / 'results.json'} after {minutes(time.monotonic() - start)} minutes")


def command_line(arguments: argparse.Namespace) -> str:
    """What to type for these results."""
    defaults = vars(parse_arguments([]))
    words = []
    for name, value in vars(arguments).items():
        if value != defaults[name]:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(["python", "-m", "fairseq_mhmoe.cli.demo", *words]) if words else "bash scripts/run.sh"


if __name__ == "__main__":
    main()
