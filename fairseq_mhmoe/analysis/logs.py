"""From the text of a training log to figures by update.

fairseq-train writes a line at an interval (train_inner), at the end of an epoch (train) and for each validation (valid,
or the subset's name), as JSON or as text ("simple"). Captured output has a time and the kind of line in front, a file
of --log-file has not, so the kind is told from the line itself. A log may hold several sessions: a training that was
ended and resumed goes on in the same file, and what it had done after its last checkpoint is done again.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Figures = dict[str, float]  # name -> number, without the name of the subset

TRAIN_INNER, TRAIN = "train_inner", "train"
JSON_START = '{"epoch":'
TEXT_INNER = re.compile(r"epoch \d{3,}:\s+\d+ / \d+ (.*)$")
TEXT_END = re.compile(r"epoch \d{3,} \| (?:valid on '(.+?)' subset \| )?(.*)$")
FIGURE_STARTS = re.compile(r'\{"epoch":|epoch \d{3,}(?::\s+\d+ / | \| )')
START = "{'_name': None, 'common': "  # the configuration, which fairseq-train prints first
EMBEDDING = re.compile(r"\(embed_tokens\): Embedding\((\d+), ")  # of the model, which is printed next
LOADED = re.compile(r"Loaded checkpoint .* @ (\d+) updates\)")
NOTHING_LOADED = "No existing checkpoint found"


@dataclass(frozen=True)
class Broken:
    """A line of figures that could not be read."""

    file: str
    line: int  # from 1
    reason: str


@dataclass(frozen=True)
class Entry:
    """One line of figures."""

    tag: str  # train_inner, train, or the subset that was validated
    update: int
    figures: Figures


@dataclass
class Session:
    """What one process logged."""

    resumed_at: int | None = None  # updates of the checkpoint that it loaded, 0 for none; None: the log does not say
    entries: list[Entry] = field(default_factory=list)


@dataclass
class Log:
    """All sessions of one file, in its order."""

    path: Path
    sessions: list[Session]
    broken: list[Broken]
    configuration: str | None = None  # as fairseq-train printed it last
    vocab_size: int | None = None


@dataclass
class Merged:
    """One history out of several sessions."""

    figures: dict[str, dict[int, Figures]]  # tag -> update -> figures; what was done twice counts as the second time
    seconds: dict[int, float]  # update -> wall clock of all work up to it that was kept
    sessions: int  # how many had figures
    updates_lost: int  # were done again after a resume
    seconds_lost: float  # spent on them, as far as the log tells
    begins_at: int  # updates before the first session of the log; 0 for a log from the beginning


def read_log(path: str | os.PathLike) -> Log:
    """Read a training log; see `read_lines`.

    Raises:
        ValueError: no figures in it.
        OSError: it can't be opened.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        log = read_lines(file, path)
    if not any(session.entries for session in log.sessions):
        broken = f" ({len(log.broken)} broken lines)" if log.broken else ""
        raise ValueError(
            f"{path}: no figures of a training in it{broken}; expected the output of fairseq-train with --log-format "
            "json or simple, or its --log-file"
        )
    return log


def read_lines(lines: Iterable[str], path: str | os.PathLike = "log") -> Log:
    """Sort the lines of a log into sessions and read their figures.

    A session begins with fairseq-train's first line, or where the number of updates falls. Lines that begin like
    figures but can't be read (cut when the process was killed, say) are listed, not guessed.
    """
    log = Log(Path(path), [Session()], [])
    for number, line in enumerate(lines, 1):
        if START in line:
            log.sessions.append(Session())
            log.configuration = line[line.index(START) :]
        elif found := EMBEDDING.search(line):
            log.vocab_size = int(found[1])
        elif NOTHING_LOADED in line or LOADED.search(line):
            if log.sessions[-1].entries:
                log.sessions.append(Session())
            found = LOADED.search(line)
            log.sessions[-1].resumed_at = int(found[1]) if found else 0
        starts = list(FIGURE_STARTS.finditer(line))
        if not starts:
            continue
        problems = ["cut; the next line follows in the same one"] * (len(starts) - 1)
        try:
            entry = parse_line(line[starts[-1].start() :])
        except ValueError as error:
            problems.append(str(error))
        else:
            if log.sessions[-1].entries and entry.update < log.sessions[-1].entries[-1].update:
                log.sessions.append(Session())
            log.sessions[-1].entries.append(entry)
        log.broken += [Broken(str(path), number, problem) for problem in problems]
    return log


def parse_line(line: str) -> Entry:
    """The figures of a line, from where they begin, in either format.

    Raises:
        ValueError: what is wrong with it.
    """
    tag, figures = _parse_json(line) if line.startswith(JSON_START) else _parse_text(line)
    update = figures.get("num_updates")
    if update is None or not math.isfinite(update):
        raise ValueError("cut, or not of a training: num_updates is missing")
    return Entry(tag, int(update), figures)


def merge(sessions: Iterable[Session]) -> Merged:
    """One history: a session replaces what earlier ones did after the checkpoint that it started from.

    fairseq's wall clock starts at 0 in each session; here it goes on from where the checkpoint was written. Where the
    log does not name that checkpoint (a --log-file does not), the last update logged before the session's first one
    stands for it.
    """
    merged = Merged({}, {}, 0, 0, 0.0, 0)
    for session in sessions:
        if not session.entries:
            continue
        first = session.entries[0].update
        start = session.resumed_at
        if start is None:
            start = max((update for update in _updates(merged) if update < first), default=0)
        if merged.sessions == 0:
            merged.begins_at = _beginning(session) if session.resumed_at is None else session.resumed_at
        offset = float(values_at(merged.seconds, [start])[0]) if merged.seconds else 0.0
        _forget(merged, start, offset)
        merged.sessions += 1
        if offset:
            merged.seconds[start] = offset
        for entry in session.entries:
            merged.figures.setdefault(entry.tag, {})[entry.update] = entry.figures
            if math.isfinite(entry.figures.get("wall", math.nan)):
                merged.seconds[entry.update] = offset + entry.figures["wall"]
    return merged


def values_at(points: dict[int, float], updates: Sequence[float]) -> np.ndarray:
    """A growing quantity at updates: straight lines between 0 at update 0 and the points, the last one goes on."""
    places, values = np.array(sorted({0: 0.0, **points}.items()), dtype=float).T
    updates = np.asarray(updates, dtype=float)
    if len(places) == 1:
        return np.full(updates.shape, values[0])
    right = np.searchsorted(places, updates).clip(1, len(places) - 1)
    slope = (values[right] - values[right - 1]) / (places[right] - places[right - 1])
    return values[right - 1] + slope * (updates - places[right - 1])


def _beginning(session: Session) -> int:
    """The update after which a first session begins, from the interval of its lines; 0 if that can't be told."""
    updates = sorted({entry.update for entry in session.entries if entry.tag == TRAIN_INNER})
    return max(updates[0] - (updates[1] - updates[0]), 0) if len(updates) > 1 else 0


def _updates(merged: Merged) -> list[int]:
    return [update for figures in merged.figures.values() for update in figures]


def _forget(merged: Merged, start: int, seconds: float) -> None:
    """Takes back all that was done after update `start`, which was reached after so many seconds."""
    lost = max(_updates(merged), default=0) - start
    if lost <= 0:
        return
    merged.updates_lost += lost
    merged.seconds_lost += max(max(merged.seconds.values(), default=0.0) - seconds, 0.0)
    merged.seconds = {update: value for update, value in merged.seconds.items() if update <= start}
    for tag, figures in merged.figures.items():
        merged.figures[tag] = {update: content for update, content in figures.items() if update <= start}


def _parse_json(line: str) -> tuple[str, Figures]:
    try:
        content = json.loads(line)
    except ValueError:
        raise ValueError("cut or changed: no whole JSON object") from None
    del content["epoch"]
    tag = TRAIN_INNER
    if content.pop("update", None) is None:  # of an epoch's end or a validation: the tag stands before each name
        tags = [name.removesuffix("_loss") for name in content if name.endswith("_loss")]
        tag = next((tag for tag in tags if all(name.startswith(f"{tag}_") for name in content)), None)
        if tag is None:
            raise ValueError("not of fairseq-train: no loss in it, or names that don't begin alike")
        content = {name.removeprefix(f"{tag}_"): value for name, value in content.items()}
    return tag, _numbers(content.items())


def _parse_text(line: str) -> tuple[str, Figures]:
    if not line.endswith("\n"):
        raise ValueError("cut: the file ends within the line")
    line = line.rstrip("\r\n")
    if found := TEXT_INNER.match(line):
        return TRAIN_INNER, _numbers(part.rpartition("=")[::2] for part in found[1].split(", "))
    if found := TEXT_END.match(line):
        return found[1] or TRAIN, _numbers(part.rpartition(" ")[::2] for part in found[2].split(" | "))
    raise ValueError("cut or changed: no figures follow")


def _numbers(pairs: Iterable[tuple[str, object]]) -> Figures:
    """Numbers by name; those that have no value in this line are left out."""
    numbers = {}
    for name, value in pairs:
        if value is None or value == "None":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError(f"{name} is {str(value)[:20]!r}, no number")
        try:
            numbers[name] = float(value)
        except ValueError:
            raise ValueError(f"cut or changed: {name} is {str(value)[:20]!r}, no number") from None
    return numbers
