"""The steps of the demonstration: prepare the data, train a model, evaluate it."""

import json
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fairseq_mhmoe.cli.demo_models import (
    SEQUENCES_PER_UPDATE,
    TOKENS_PER_SAMPLE,
    DemoModel,
    training_words,
    words_of,
)
from fairseq_mhmoe.cli.demo_programs import (
    PACKAGE,
    StepFailed,
    log_figures,
    median_speed,
    minutes,
    program,
    run,
    say,
    shorten,
    show,
)
from fairseq_mhmoe.cli.work_folder import claim_folder

SPLITS = ("valid", "test")
TOKENS_PER_UPDATE = SEQUENCES_PER_UPDATE * TOKENS_PER_SAMPLE
LOG_INTERVAL = 20
SAVE_INTERVAL = 100
EVALUATION_SEQUENCES = 16
PERPLEXITY = re.compile(r"Loss \(base 2\): (\S+), Perplexity: (\S+)")
LOSS_TOLERANCE = 1e-3  # bits; fairseq-eval-lm prints four digits and adds up in float32


@dataclass(frozen=True)
class Place:
    """Where the demonstration reads and writes, and with how many threads."""

    data: Path
    output: Path
    threads: int

    def common_words(self) -> list[str]:
        """What every stock program is told first."""
        return [shorten(self.data), "--user-dir", shorten(PACKAGE), "--cpu", "--distributed-world-size", "1"]


def prepare_data(place: Place) -> None:
    """Make the corpus; its program returns at once when the folder is complete."""
    command = [program("python"), "-m", "data_prep.demo_english", "--output", shorten(place.data)]
    show(command)
    output = run(command, place.output / "data.log", place.threads)
    say(f"      {output.splitlines()[-1]}")


def train(place: Place, model: DemoModel, updates: int, key: str) -> dict:
    """Train one model with fairseq-train, from its last checkpoint when there is one of the same key."""
    folder = place.output / model.name
    claim_folder(folder, key)
    logging_and_saving = {
        "save-dir": shorten(folder),
        "save-interval-updates": SAVE_INTERVAL,
        "keep-interval-updates": 1,
        "no-epoch-checkpoints": True,
        "disable-validation": True,
        "num-workers": 0,
        "log-format": "json",
        "log-interval": LOG_INTERVAL,
    }
    command = [program("fairseq-train"), *place.common_words(), *training_words(updates), *model.words]
    command += words_of(logging_and_saving)
    show(command)
    log = folder / "train.log"
    run(command, log, place.threads, on_line=TrainingProgress(updates))
    return {
        "fingerprint": key,
        "updates": updates,
        "tokens": updates * TOKENS_PER_UPDATE,
        "tokens_per_s": median_speed(log),
        "command": shlex.join(command),
    }


class TrainingProgress:
    """Turns the lines of fairseq's JSON log into short ones."""

    def __init__(self, updates: int):
        self.updates = updates

    def __call__(self, line: str) -> None:
        figures = log_figures(line, "train_inner")
        if figures is None:
            return
        update, speed = int(figures["num_updates"]), float(figures["wps"])
        tokens_left = (self.updates - update) * TOKENS_PER_UPDATE
        left = minutes(tokens_left / speed) if speed > 0 else "?"
        say(
            f"      update {update:4d} of {self.updates}   loss {float(figures['nll_loss']):6.3f} bits   "
            f"ppl {float(figures['ppl']):8.2f}   {speed:6.0f} tokens/s   {left} left"
        )


def evaluate(place: Place, model: DemoModel, key: str) -> dict:
    """Perplexity by fairseq-eval-lm, and by document with cli.evaluate; the two must agree."""
    folder = place.output / model.name
    log, scores = folder / "evaluate.log", folder / "scores.json"
    options = words_of(
        {
            "task": "gpt",
            "path": shorten(folder / "checkpoint_last.pt"),
            "sample-break-mode": "none",
            "tokens-per-sample": TOKENS_PER_SAMPLE,
            "batch-size": EVALUATION_SEQUENCES,
            "num-workers": 0,
        }
    )
    options = [*place.common_words(), *options]
    own = [program("python"), "-m", "fairseq_mhmoe.cli.evaluate", *options, "--gen-subset", ",".join(SPLITS)]
    commands = [[*own, "--output", shorten(scores)]]
    commands += [[program("fairseq-eval-lm"), *options, "--gen-subset", split] for split in SPLITS]
    for command in commands:
        show(command)
    with ThreadPoolExecutor(place.threads) as pool:
        _, *outputs = pool.map(lambda command: run(command, log, threads=1), commands)
    result = {"fingerprint": key, "splits": json.loads(scores.read_text())}
    for split, output in zip(SPLITS, outputs, strict=True):
        loss, perplexity = parse_eval_lm(output)
        say(f"      {split}: loss {loss:.4f} bits, perplexity {perplexity:.2f}")
        check_agreement(split, loss, result["splits"][split]["bits_per_token"])
        result["splits"][split]["eval_lm_perplexity"] = perplexity
    return result


def parse_eval_lm(output: str) -> tuple[float, float]:
    """Loss in bits per token and perplexity as fairseq-eval-lm printed them."""
    found = PERPLEXITY.search(output)
    if not found:
        raise StepFailed(f"fairseq-eval-lm printed no perplexity:\n{output[-2000:]}")
    return float(found[1]), float(found[2])


def check_agreement(split: str, eval_lm: float, by_document: float) -> None:
    """Raises StepFailed unless the sum over documents gives the bits per token of fairseq-eval-lm."""
    if not abs(by_document - eval_lm) <= LOSS_TOLERANCE:
        raise StepFailed(f"{split}: fairseq-eval-lm says {eval_lm} bits per token, our documents {by_document}")
