"""Runs and groups of runs as curves: validation figures by update, tokens, training FLOPs and wall clock.

Data of figures 4 and 9 of MH-MoE v1; `logs` reads the text, `curves_picture` draws.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from fairseq_mhmoe.analysis.curves_model import ModelFacts, facts_of_checkpoint, facts_of_log, find_checkpoint
from fairseq_mhmoe.analysis.logs import TRAIN, TRAIN_INNER, Broken, Figures, merge, read_log, values_at

LOG_NAME = "train.log"
OTHER_LOGS = ("*.log", "log")
AXES = ("update", "tokens", "flops", "time")  # what a curve can be drawn over


@dataclass(frozen=True)
class Curve:
    """A figure at some updates; arrays of equal length, updates rising."""

    updates: np.ndarray
    values: np.ndarray
    errors: np.ndarray | None = None  # standard error of each value; None for a single run
    over: dict[str, np.ndarray] = field(default_factory=dict)  # axis -> where the points lie, for those that are known


@dataclass
class Run:
    """One training, as its log and its checkpoint tell it."""

    path: Path  # as the user named it
    log: Path
    figures: dict[str, dict[int, Figures]]  # train_inner, train or subset -> update -> figures
    seconds: dict[int, float]  # update -> wall clock from the start of the training, validation and saving included
    sessions: int
    updates_lost: int  # trained twice, because a session began before the end of the one before it
    seconds_lost: float
    broken: list[Broken]
    model: ModelFacts
    notes: list[str]  # what could not be had, and what is not exact

    @property
    def subsets(self) -> list[str]:
        """Names of the validated subsets, in the order of the log."""
        return [tag for tag in self.figures if tag not in (TRAIN_INNER, TRAIN)]

    @cached_property
    def tokens(self) -> tuple[dict[int, float], float]:
        """(update -> tokens trained on so far, by how many the last of them may be wrong); see `count_tokens`."""
        lines = self.figures.get(TRAIN_INNER) or self.figures.get(TRAIN, {})
        return count_tokens(lines)

    def over(self, axis: str, updates: np.ndarray) -> np.ndarray | None:
        """Where these updates lie on an axis: updates, tokens, training FLOPs, seconds; None if that is not known."""
        if axis == "update":
            return np.asarray(updates, dtype=float)
        points, factor = (self.seconds, 1) if axis == "time" else (self.tokens[0], 1)
        if axis == "flops":
            factor = self.model.flops_per_token
        if not points or factor is None:
            return None
        return factor * values_at(points, updates)

    def curve(self, tag: str, figure: str) -> Curve:
        """A figure of a subset, or of "train_inner", wherever the log has a finite number for it.

        Raises:
            ValueError: the log never has it; names what there is.
        """
        lines = self.figures.get(tag, {})
        known = sorted({name for content in lines.values() for name in content})
        if lines and figure not in known:
            raise ValueError(f"{self.log}: {tag} has no figure {figure}; it has {', '.join(known)}")
        points = [(update, content[figure]) for update, content in sorted(lines.items()) if figure in content]
        points = [(update, value) for update, value in points if math.isfinite(value)]
        updates = np.array([update for update, _ in points], dtype=int)
        values = np.array([value for _, value in points], dtype=float)
        over = {axis: self.over(axis, updates) for axis in AXES}
        return Curve(updates, values, over={axis: places for axis, places in over.items() if places is not None})


@dataclass
class Group:
    """Runs of one label: the same model with several seeds."""

    label: str
    runs: list[Run]

    @property
    def model(self) -> ModelFacts:
        """What the runs have in common."""
        return self.runs[0].model

    def curve(self, tag: str, figure: str) -> Curve:
        """The mean over the runs, at the updates that all have, and its standard error (None for one run).

        The standard error is the runs' standard deviation (n - 1) over the root of n. Tokens, FLOPs and time of a point
        are means, too.
        """
        curves = [run.curve(tag, figure) for run in self.runs]
        if len(curves) == 1:
            return curves[0]
        common = sorted(set.intersection(*(set(curve.updates.tolist()) for curve in curves)))
        places = [np.searchsorted(curve.updates, common) for curve in curves]
        values = np.array([curve.values[place] for curve, place in zip(curves, places)])  # [runs, points]
        errors = values.std(axis=0, ddof=1) / math.sqrt(len(curves)) if common else np.zeros(0)
        over = {
            axis: np.mean([curve.over[axis][place] for curve, place in zip(curves, places)], axis=0)
            for axis in AXES
            if all(axis in curve.over for curve in curves)
        }
        return Curve(np.array(common, dtype=int), values.mean(axis=0), errors, over)


def read_run(
    path: str | os.PathLike,
    flops_per_token: float | None = None,
    experts: int | None = None,
    kind: str | None = None,
) -> Run:
    """Read a training's log, and its model's cost from the checkpoint beside it, else from the log itself.

    Args:
        path: a folder with train.log or one other log, or a log; see `find_log`.
        flops_per_token, experts, kind: of the model, instead of what the checkpoint says.
    Raises:
        ValueError: no log, or no figures in it.
    """
    path = Path(path)
    log_path = find_log(path)
    log = read_log(log_path)
    merged = merge(log.sessions)
    own_folder = path.is_dir() or _is_the_log_of(log_path)  # else a checkpoint there may be another log's
    model, problem = facts_of_checkpoint(find_checkpoint(log_path.parent) if own_folder else None)
    if problem:
        model, not_in_log = facts_of_log(log.configuration, log.vocab_size)
        problem = not_in_log and f"{problem}, and {not_in_log}"
    notes = []
    if problem and flops_per_token is None:
        notes.append(f"FLOPs per token are unknown: {problem}")
    model = model.changed(flops_per_token=flops_per_token, experts=experts, kind=kind)
    if merged.begins_at:
        notes.append(f"the log begins after update {merged.begins_at}; the time before is missing, tokens are guessed")
    run = Run(
        path,
        log_path,
        merged.figures,
        merged.seconds,
        merged.sessions,
        merged.updates_lost,
        merged.seconds_lost,
        log.broken,
        model,
        notes,
    )
    if not run.tokens[0]:
        run.notes.append("tokens are unknown: no line of training has words per batch (wpb)")
    return run


def find_log(path: Path) -> Path:
    """The log of a run: the file, or in a folder train.log, else the only *.log (or "log") with figures of a training.

    Raises:
        ValueError: there is none, or more than one.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"no run {path}; expected a folder with {LOG_NAME}, or a log file")
    if (path / LOG_NAME).is_file():
        return path / LOG_NAME
    files = sorted(file for pattern in OTHER_LOGS for file in path.glob(pattern) if file.is_file())
    found = [file for file in files if _has_figures(file)]
    if len(found) != 1:
        names = ", ".join(file.name for file in found)
        says = f"several logs of trainings ({names}); name one of them" if found else "no log of a training (*.log)"
        raise ValueError(f"{path} has {says}")
    return found[0]


def group(runs: Sequence[Run], labels: Sequence[str] | None = None) -> list[Group]:
    """Put runs of equal label together, in the order of the labels' first appearance.

    Args:
        labels: one per run; None: every run alone, under its name.
    Raises:
        ValueError: another number of labels than of runs, or models of different size under one label.
    """
    labels = names_of(runs) if labels is None else list(labels)
    if len(labels) != len(runs):
        raise ValueError(f"--labels: {len(labels)} labels for {len(runs)} runs; expected one for each, in their order")
    groups: dict[str, Group] = {}
    for run, label in zip(runs, labels):
        groups.setdefault(label, Group(label, [])).runs.append(run)
    for found in groups.values():
        for run in found.runs[1:]:
            check_equal(found.label, found.runs[0], run)
    return list(groups.values())


def check_equal(label: str, one: Run, other: Run) -> None:
    """Raises ValueError unless two runs can be seeds of one model."""
    for name in ("kind", "experts", "flops_per_token"):
        first, second = getattr(one.model, name), getattr(other.model, name)
        if first != second and None not in (first, second):
            raise ValueError(
                f"label {label}: {one.path} and {other.path} are different models ({name} {first} and {second}); "
                "give them different --labels"
            )


def names_of(runs: Sequence[Run]) -> list[str]:
    """The last parts of the runs' paths, as many as tell them apart."""
    paths = [run.log.parent if run.path.is_dir() or run.log.name == LOG_NAME else run.log for run in runs]
    parts = [
        Path(os.path.abspath(path)).with_suffix("" if path.suffix == ".log" else path.suffix).parts for path in paths
    ]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"a run is named twice: {', '.join(str(run.path) for run in runs)}")


def count_tokens(lines: dict[int, Figures]) -> tuple[dict[int, float], float]:
    """Tokens trained on up to each logged update, and by how many the last number may be wrong.

    A line holds the mean of the words per batch since the line before, rounded to a tenth or six digits; times the
    updates between them that is the tokens of the interval, but for the rounding. Where the log has the tokens of each
    source (JSON, several sources) and their sum agrees with that, the sum is taken: it is exact up to six digits.
    Without a break in the data every batch has as many tokens, and the mean is exact, too.
    """
    tokens, total, error, before = {}, 0.0, 0.0, 0
    for update, figures in sorted(lines.items()):
        mean = figures.get("wpb", math.nan)
        if not math.isfinite(mean):
            continue
        updates = update - before
        slack = updates * (0.05 + (half_unit(mean) if mean >= 1e5 else 0)) + 1e-6
        counts = [value for name, value in figures.items() if name.startswith("src_") and name.endswith("_tokens")]
        counted, rounded = sum(counts), sum(half_unit(count) for count in counts if count >= 1e6)
        if counts and abs(counted - updates * mean) <= slack + rounded:
            total, error = total + counted, error + rounded
        else:
            total, error = total + updates * mean, error + slack
        tokens[update] = total
        before = update
    return tokens, error


def half_unit(number: float) -> float:
    """Half of the last of the six digits that fairseq prints."""
    return 0.5 * 10.0 ** (math.floor(math.log10(abs(number))) - 5) if number else 0.0


def _has_figures(file: Path) -> bool:
    try:
        read_log(file)
    except ValueError:
        return False
    return True


def _is_the_log_of(file: Path) -> bool:
    """Whether a checkpoint in the file's folder can only be of this log's training."""
    try:
        return find_log(file.parent) == file
    except ValueError:
        return False
