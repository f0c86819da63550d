"""One training of a comparison: its command, its evaluation, and the figures that results.json keeps of it."""

import json
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_mhmoe.cli.demo_models import words_of
from fairseq_mhmoe.cli.demo_programs import (
    PACKAGE,
    StepFailed,
    fingerprint,
    finished,
    log_figures,
    median_speed,
    program,
    run,
    shorten,
)
from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.cli.reproduce_models import Model
from fairseq_mhmoe.cli.reproduce_settings import Scale
from fairseq_mhmoe.cli.reproduce_subjects import subject_of
from fairseq_mhmoe.cli.work_folder import claim_folder

LOG_LINES = 50  # of a training
VALIDATION_SAMPLES = 32  # in a batch
NEVER = 1_000_000  # epochs: saving and validating go by updates
# Nats per token by which fairseq's last validation, three digits of bits, and the sum over documents may differ.
AGREEMENT = {"cpu": 1e-3, "cuda": 2e-2}
ROUTING = {"gate_entropy": "moe_entropy", "load_max": "moe_load_max", "active": "moe_active", "dropped": "moe_dropped"}


@dataclass(frozen=True)
class Place:
    """Where runs read and write, on what, and how many of them at a time."""

    data: Path
    output: Path
    device: str  # cpu, cuda
    jobs: int
    threads: int

    def common_words(self) -> list[str]:
        """What every stock program is told first."""
        words = [shorten(self.data), "--user-dir", shorten(PACKAGE), "--distributed-world-size", "1"]
        return [*words, "--cpu"] if self.device == "cpu" else words


@dataclass(frozen=True)
class Run:
    """One model, one seed."""

    model: Model
    seed: int
    scale: Scale
    place: Place

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.model.name}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Where its checkpoint, log and figures are."""
        return self.place.output / self.name

    @property
    def updates(self) -> int:
        """How many it has."""
        return self.scale.updates

    @property
    def flops(self) -> int:
        """Training FLOPs of the whole run."""
        return self.model.cost.flops_per_token * self.updates * self.scale.tokens_per_update

    @property
    def settings(self) -> str:
        """Hash of what is asked for; how many runs work at a time is not in it."""
        return fingerprint(training_words(self), self.place.device)

    def is_done(self, origin: "Origin") -> bool:
        """Whether it was trained and evaluated with the same settings and data."""
        return finished(self.folder / "evaluation.json", origin.key(self)) is not None


@dataclass(frozen=True)
class Origin:
    """From what the numbers of all runs come."""

    data: str  # hash
    code: str  # hash of the code that training runs through
    commit: str

    def key(self, run: Run) -> str:
        """Results under this key are used again: same settings, same data. The code may be another."""
        return fingerprint(run.settings, self.data)

    def about(self, run: Run) -> dict[str, str]:
        """What is written down when a training begins."""
        return {"settings": run.settings, "data": self.data, "code": self.code, "commit": self.commit}


def interval(scale: Scale) -> int:
    """Updates between two validations, with which go the checkpoints."""
    return max(1, math.ceil(scale.updates / scale.validations))


def training_words(run: Run) -> list[str]:
    """Everything that decides the outcome: data order, model, optimizer, schedule, and when is validated."""
    scale = run.scale
    rate = scale.learning_rate_of(run.model.spec.family)
    settings: dict[str, Any] = {
        **subject_of(scale).task_settings(scale),
        "moe-gate-loss-wt": scale.balance_weight,
        "optimizer": "adam",
        "adam-betas": f"(0.9, {scale.adam_beta2})",
        "adam-eps": 1e-6,
        "weight-decay": scale.weight_decay,
        "clip-norm": scale.clip_norm,
        "lr": rate,
        "lr-scheduler": "polynomial_decay",
        "warmup-updates": min(scale.warmup_updates, scale.updates // 2),
        "end-learning-rate": rate * scale.end_share,
        "total-num-update": scale.updates,
        "max-update": scale.updates,
        "seed": run.seed,
    }
    if scale.bf16 and run.place.device == "cuda":
        settings["bf16"] = True
    return [*words_of(settings), *run.model.words]


def training_command(run: Run) -> list[str]:
    """The whole command line of the training."""
    saving = {
        "save-dir": shorten(run.folder),
        "validate-interval-updates": interval(run.scale),
        "save-interval-updates": interval(run.scale),
        "keep-interval-updates": 1,
        "save-interval": NEVER,
        "validate-interval": NEVER,
        "no-epoch-checkpoints": True,
        "batch-size-valid": VALIDATION_SAMPLES,
        "num-workers": 0,
        "log-format": "json",
        "log-interval": max(1, run.scale.updates // LOG_LINES),
    }
    return [program("fairseq-train"), *run.place.common_words(), *training_words(run), *words_of(saving)]


def evaluation_command(run: Run) -> list[str]:
    """Perplexities and experts in use, of the last checkpoint."""
    return subject_of(run.scale).evaluation_command(run, VALIDATION_SAMPLES)


def begun_otherwise(run: Run, origin: Origin) -> list[str]:
    """What differs (settings, data, code) from a training that is in its folder; empty if none is, or the same."""
    try:
        before = json.loads((run.folder / "started.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    return [name for name, value in origin.about(run).items() if name != "commit" and before.get(name) != value]


def carry_out(run_: Run, origin: Origin, on_line: Callable[[str], None], on_start: Callable) -> None:
    """Train, from the last checkpoint when there is one of the same key, and evaluate; what is done is kept.

    Args:
        on_line: called with every line of the training. on_start: called with every process.
    Raises:
        StepFailed: a program ended with an error, or two programs disagree on the loss.
    """
    folder, threads, key = run_.folder, run_.place.threads, origin.key(run_)
    if finished(folder / "training.json", key) is None:
        claim_folder(folder, key, origin.about(run_))
        command = training_command(run_)
        run(command, folder / "train.log", threads, on_line=on_line, on_start=on_start)
        trained = {
            "fingerprint": key,
            "tokens_per_s": median_speed(folder / "train.log"),
            "jobs": run_.place.jobs,
            "validation": validation_curve(folder / "train.log"),
            "command": shlex.join(command),
            "commit": origin.commit,
            "code": origin.code,
        }
        write_json(folder / "training.json", trained)
    for path in folder.glob("checkpoint_*.pt"):
        if path.name != "checkpoint_last.pt":
            path.unlink()  # the same state, or one on the way to it
    run(evaluation_command(run_), folder / "evaluate.log", threads, on_start=on_start)
    splits = subject_of(run_.scale).read_scores(folder / "scores.json")
    check_agreement(run_, splits["valid"])
    write_json(folder / "evaluation.json", {"fingerprint": key, "splits": splits})


def validation_curve(log: Path) -> list[dict]:
    """The figures of each validation in a training's JSON log, by update; of a repeated update the last ones."""
    found = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        figures = log_figures(line, "valid")
        if figures is not None:
            found[int(figures["valid_num_updates"])] = {
                "update": int(figures["valid_num_updates"]),
                "nll": float(figures["valid_nll_loss"]) * math.log(2),
                **{name: float(figures[f"valid_{key}"]) for name, key in ROUTING.items() if f"valid_{key}" in figures},
            }
    return [found[update] for update in sorted(found)]


def check_agreement(run: Run, valid: dict) -> None:
    """Raises StepFailed unless the sum over documents gives the loss of fairseq's own last validation."""
    curve = json.loads((run.folder / "training.json").read_text(encoding="utf-8"))["validation"]
    ours = subject_of(run.scale).nll_of(valid)
    if not curve or not abs(curve[-1]["nll"] - ours) <= AGREEMENT[run.place.device]:
        theirs = curve[-1]["nll"] if curve else "nothing"
        raise StepFailed(f"{run.name}: fairseq-train's last validation says {theirs} nats per token, documents {ours}")


def entry(run: Run) -> dict:
    """What results.json has of a run that was carried out."""
    begun, trained = (
        json.loads((run.folder / name).read_text(encoding="utf-8")) for name in ("started.json", "training.json")
    )
    splits = json.loads((run.folder / "evaluation.json").read_text(encoding="utf-8"))["splits"]
    cost, updates = run.model.cost, run.updates
    return {
        "model": run.model.name,
        "seed": run.seed,
        "folder": shorten(run.folder),
        **subject_of(run.scale).figures(splits),
        **{name: trained["validation"][-1].get(name) for name in ROUTING},
        "validation": trained["validation"],
        "updates": updates,
        "training_tokens": updates * run.scale.tokens_per_update,
        "tokens_per_s": trained["tokens_per_s"],
        "runs_at_a_time": trained["jobs"],
        "params_total": cost.params_total,
        "params_activated": cost.params_activated,
        "flops_per_token": cost.flops_per_token,
        "training_flops": run.flops,
        "learning_rate": run.scale.learning_rate_of(run.model.spec.family),
        "commit": trained["commit"],
        "code_sha256": trained["code"],
        "code_changed_meanwhile": begun["code"] != trained["code"],
        "command": trained["command"],
        "evaluation_command": shlex.join(evaluation_command(run)),
    }
