"""The steps of the multimodal demonstration: data, visual tokenizer, pre-training, fine-tuning, with their figures."""

import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_mhmoe.cli.demo_models import DemoModel, words_of
from fairseq_mhmoe.cli.demo_programs import (
    PACKAGE,
    finished,
    median_speed,
    program,
    run,
    say,
    shorten,
    show,
)
from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.cli.reproduce_settings import Pictures
from fairseq_mhmoe.cli.work_folder import claim_folder

TOKENIZER = "image_tokenizer.pt"
SAVES = 8  # of a training: what an interruption loses at most is an eighth
LOG_LINES = 25
EVALUATION_ROWS = 64


@dataclass(frozen=True)
class Place:
    """Where the demonstration reads and writes, and how many trainings it runs at a time, one thread each."""

    data: Path
    output: Path
    jobs: int

    def common_words(self) -> list[str]:
        """What every stock program is told first."""
        return [shorten(self.data), "--user-dir", shorten(PACKAGE), "--cpu", "--distributed-world-size", "1"]


@dataclass(frozen=True)
class Training:
    """One fairseq-train and what its result is asked; `reproduce_jobs` carries out several of them.

    words: everything that decides the outcome. key: fingerprint of that, the data and the code. flops: what its share
    of all work is reckoned by. start: the training whose last checkpoint it begins with, if any.
    """

    name: str
    model: DemoModel
    words: tuple[str, ...]
    key: str
    updates: int
    flops: float
    place: Place
    start: "Training | None" = None

    @property
    def folder(self) -> Path:
        """Where its checkpoint, log and figures are."""
        return self.place.output / self.name

    @property
    def checkpoint(self) -> Path:
        """The model at the end."""
        return self.folder / "checkpoint_last.pt"

    def is_done(self, origin: object = None) -> bool:
        """Whether it was trained and evaluated under its key."""
        return finished(self.folder / "evaluation.json", self.key) is not None

    def command(self) -> list[str]:
        """The whole command line."""
        saving = {
            "save-dir": shorten(self.folder),
            "save-interval-updates": max(1, -(-self.updates // SAVES)),
            "keep-interval-updates": 1,
            "no-epoch-checkpoints": True,
            "disable-validation": True,
            "num-workers": 0,
            "log-format": "json",
            "log-interval": max(1, self.updates // LOG_LINES),
        }
        if self.start is not None:
            saving["finetune-from-model"] = shorten(self.start.checkpoint)
        return [program("fairseq-train"), *self.place.common_words(), *self.words, *words_of(saving)]

    def evaluation_command(self) -> list[str]:
        """Perplexities of a pre-trained model, or the score of a fine-tuned one."""
        vqa = "vqa" in self.words
        module = f"fairseq_mhmoe.cli.evaluate_{'vqa' if vqa else 'multimodal'}"
        words = [program("python"), "-m", module, shorten(self.checkpoint), shorten(self.place.data)]
        words += ["--batch-size", str(EVALUATION_ROWS)]
        if vqa:
            return [*words, "--split", "test", "--num-workers", "0", "--cpu", "--output", shorten(self.folder)]
        scores = shorten(self.folder / "scores.json")
        return [*words, "--split", "valid,test", "--device", "cpu", "--output", scores]

    def scores(self) -> dict[str, Any]:
        """What the evaluation wrote."""
        name = "vqa_test_scores.json" if "vqa" in self.words else "scores.json"
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def result(self) -> dict[str, Any]:
        """Commands, speed and scores of a training that was carried out."""
        return json.loads((self.folder / "evaluation.json").read_text(encoding="utf-8"))


def carry_out(training: Training, origin: object, on_line: Callable[[str], None], on_start: Callable) -> None:
    """Train, from the last checkpoint when there is one of the same key, and evaluate.

    Args:
        on_line: called with every line of the training. on_start: called with every process.
    Raises:
        StepFailed: a program ended with an error.
    """
    folder = training.folder
    if finished(folder / "training.json", training.key) is None:
        claim_folder(folder, training.key)
        command = training.command()
        show(command)
        run(command, folder / "train.log", 1, on_line=on_line, on_start=on_start)
        write_json(
            folder / "training.json",
            {
                "fingerprint": training.key,
                "updates": training.updates,
                "tokens_per_s": median_speed(folder / "train.log"),
                "command": shlex.join(command),
            },
        )
    for path in folder.glob("checkpoint_*.pt"):
        if path != training.checkpoint:
            path.unlink()  # the same state, or one on the way to it
    command = training.evaluation_command()
    show(command)
    run(command, folder / "evaluate.log", 1, on_start=on_start)
    trained = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    write_json(
        folder / "evaluation.json",
        {**trained, "scores": training.scores(), "evaluation_command": shlex.join(command)},
    )


def prepare_data(place: Any, words: Sequence[str] = ("data_prep.demo_multimodal",)) -> None:
    """Draw the pictures and prepare the text; its program returns at once when the folder is complete.

    Args:
        place: its `data` and `output` are the folders. words: the program, and options of it.
    """
    command = [program("python"), "-m", *words, "--output", shorten(place.data)]
    show(command)
    output = run(command, place.output / "data.log", os.cpu_count() or 1)
    say(f"      {output.splitlines()[-1]}")


def train_tokenizer(place: Any, pictures: Pictures) -> dict[str, Any]:
    """Train the visual tokenizer in the data folder, unless it is there; returns its report without the settings."""
    path = place.data / TOKENIZER
    cores = os.cpu_count() or 1
    options = {"image-size": pictures.image_size, "patch-size": pictures.patch_size, "codes": pictures.codes}
    options |= {"steps": pictures.tokenizer_steps, "images": pictures.tokenizer_images, "threads": cores}
    command = [program("python"), "-m", "fairseq_mhmoe.cli.train_image_tokenizer", shorten(place.data), shorten(path)]
    command += words_of(options)
    show(command)
    output = run(command, place.output / "tokenizer.log", cores)
    for line in output.splitlines()[-4:]:
        say(f"      {line}")
    report = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return {name: value for name, value in report.items() if name != "settings"} | {"command": shlex.join(command)}
