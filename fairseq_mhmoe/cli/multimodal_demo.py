"""The multimodal demonstration: pictures to answers with dense, X-MoE and MH-MoE models of equal training FLOPs.

Started by `bash scripts/run_multimodal.sh`: data, visual tokenizer, masked pre-training, perplexities, questions about
pictures from pre-training and from scratch. Every step is a program whose command is shown; called again it goes on.
"""

import argparse
import json
import os
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fairseq_mhmoe
from fairseq_mhmoe.cli.demo_models import DemoModel
from fairseq_mhmoe.cli.demo_programs import StepFailed, code_hash, fingerprint, minutes, say
from fairseq_mhmoe.cli.demo_report import current_commit
from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.cli.multimodal_demo_models import (
    NAMES,
    PAIRS,
    PICTURES,
    QUESTIONS_PER_UPDATE,
    Budget,
    demo_models,
    finetuning_words,
    pretraining_words,
)
from fairseq_mhmoe.cli.multimodal_demo_report import (
    LEGEND,
    answer_table,
    finetuning_row,
    perplexity_table,
    pretraining_row,
    sentence,
)
from fairseq_mhmoe.cli.multimodal_demo_steps import Place, Training, carry_out, prepare_data, train_tokenizer
from fairseq_mhmoe.cli.reproduce_jobs import carry_out_all
from fairseq_mhmoe.cli.work_folder import locked, program_of_steps

ROOT = Path(fairseq_mhmoe.__file__).resolve().parents[1]
DEFAULT_DATA = Path("data/demo-multimodal")
PAIR_TOKENS = 30  # about, of a picture and its caption or question: for the estimate of time only


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """The options of the demonstration; a wrong one ends the program with a usage text."""
    budget = Budget()
    parser = argparse.ArgumentParser(prog="bash scripts/run_multimodal.sh", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="prepared folder (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/demo-multimodal"), help="default: %(default)s")
    numbers = {
        "updates": (budget.updates, "of pre-training, each model"),
        "finetuning-updates": (budget.finetuning_updates, "of each fine-tuning"),
        "tokenizer-steps": (PICTURES.tokenizer_steps, "of the visual tokenizer's training"),
        "tokenizer-images": (PICTURES.tokenizer_images, "that the visual tokenizer is trained on"),
        "jobs": (os.cpu_count() or 1, "trainings at a time, one thread each"),
    }
    for name, (default, text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES), help="default: all")
    parser.add_argument(
        "--questions",
        nargs="+",
        default=["train-2000"],
        metavar="SPLIT",
        help="to fine-tune with: train, or a smaller one of DATA/vqa.SPLIT.jsonl (default: train-2000)",
    )
    arguments = parser.parse_args(words)
    for name in numbers:
        if getattr(arguments, name.replace("-", "_")) < 1:
            parser.error(f"--{name} {getattr(arguments, name.replace('-', '_'))}: expected 1 or more")
    return arguments


def main(words: list[str] | None = None) -> None:
    """Run the demonstration in its folder, which no other one may use at the same time."""
    arguments = parse_arguments(words)
    with program_of_steps(), locked(arguments.output, "demonstration"):
        demonstrate(arguments)


def demonstrate(arguments: argparse.Namespace) -> None:
    """All steps, the tables and results.json."""
    begin = time.monotonic()
    place = Place(arguments.data, arguments.output, arguments.jobs)
    if place.data == DEFAULT_DATA:
        say("[data] drawn emoji with captions, photos, Wikipedia, questions of easy-VQA")
        prepare_data(place)
    if not (place.data / "demo.json").exists():
        raise StepFailed(f"{place.data} has no demo.json; name a folder that data_prep.demo_multimodal has written")
    data = json.loads((place.data / "demo.json").read_text(encoding="utf-8"))
    say("[visual tokenizer]")
    pictures = replace(PICTURES, tokenizer_steps=arguments.tokenizer_steps, tokenizer_images=arguments.tokenizer_images)
    tokenizer = train_tokenizer(place, pictures)
    text = json.loads((place.data / "text/manifest.json").read_text(encoding="utf-8"))
    symbols = text["dictionary"]["size"] + 1  # and <mask>
    models = [model for model in demo_models(symbols) if model.name in arguments.models]
    pretrained, finetuned = trainings(arguments, place, models, [data["fingerprint"], tokenizer["fingerprint"]])
    # those from scratch wait for nothing: they fill the gap that three pre-trainings leave to two at a time
    runs = [*pretrained, *sorted(finetuned, key=lambda training: training.start is not None)]
    carry_out_all(runs, None, place.jobs, in_order(runs, carry_out))
    rows = [pretraining_row(training) for training in pretrained]
    answers = [finetuning_row(training, questions_of(place.data, training)) for training in finetuned]
    prior = data["answer_prior"]
    results = {
        "models": rows,
        "answers": answers,
        "answer_prior": prior,
        "sentence": sentence(answers, prior),
        "tokenizer": tokenizer,
        "data": data,
        "commit": current_commit(ROOT),
        "command": command_line(arguments),
        "seconds": time.monotonic() - begin,
    }
    write_json(place.output / "results.json", results)
    say(f"\n{perplexity_table(rows)}\n\n{answer_table(answers, prior)}\n\n{LEGEND}\n\n{results['sentence']}")
    say(f"\nwritten to {place.output / 'results.json'} after {minutes(results['seconds'])} minutes")


def in_order(runs: Sequence[Training], work: Callable) -> Callable:
    """`work`, which carries out one training, waiting for the pre-training that it starts from to end.

    Args:
        runs: all of them, each behind the one that it starts from.
    """
    ended = {run.key: threading.Event() for run in runs}
    for run in runs:
        if run.is_done(None):
            ended[run.key].set()

    def one(run: Training, *rest: Any) -> None:
        try:
            if run.start is not None:
                ended[run.start.key].wait()
            work(run, *rest)
        finally:  # after a failure too: whoever waits is ended by the pool
            ended[run.key].set()

    return one


def trainings(
    arguments: argparse.Namespace, place: Place, models: list[DemoModel], origin: list[str]
) -> tuple[list[Training], list[Training]]:
    """The pre-trainings, and the fine-tunings: of each model from its pre-training, of the first one from scratch, too.

    Args:
        origin: fingerprints of data and tokenizer.
    """
    budget = Budget(updates=arguments.updates, finetuning_updates=arguments.finetuning_updates)
    code = code_hash()

    def training(name: str, model: DemoModel, words: list[str], updates: int, rows: int, start=None) -> Training:
        words = [*words, *model.words]
        key = fingerprint(words, origin, code, start.key if start else None)
        flops = model.cost.flops_per_token * PAIR_TOKENS * rows * updates
        return Training(name, model, tuple(words), key, updates, flops, place, start)

    rows = PAIRS + PICTURES.image_rows + PICTURES.text_rows
    pretrained = [training(model.name, model, pretraining_words(budget), budget.updates, rows) for model in models]
    finetuned = []
    for split in arguments.questions:
        words = finetuning_words(budget, split)
        updates = budget.finetuning_updates
        first = models[0]
        finetuned.append(training(f"vqa-{split}-{first.name}-scratch", first, words, updates, QUESTIONS_PER_UPDATE))
        for model, start in zip(models, pretrained, strict=True):
            name = f"vqa-{split}-{model.name}"
            finetuned.append(training(name, model, words, updates, QUESTIONS_PER_UPDATE, start))
    return pretrained, finetuned


def questions_of(data: Path, training: Training) -> int:
    """How many questions a fine-tuning learns from."""
    split = training.words[training.words.index("--train-subset") + 1]
    with open(data / f"vqa.{split}.jsonl", "rb") as file:
        return sum(1 for line in file if line.strip())


def command_line(arguments: argparse.Namespace) -> str:
    """What to type for these results."""
    defaults = vars(parse_arguments([]))
    words = []
    for name, value in vars(arguments).items():
        if value != defaults[name]:
            words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    if not words:
        return "bash scripts/run_multimodal.sh"
    return shlex.join(["python", "-m", "fairseq_mhmoe.cli.multimodal_demo", *words])


if __name__ == "__main__":
    main()
