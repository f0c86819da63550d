"""Index files of fine-tuning: one JSON record a line, in BEiT-3's format, read by offset.

A record names its image ("image_path", relative to the folder of images), its text ("text_segment": a list of token
numbers, or a string; "text": a string), and what its task asks for. Nothing of a record stays in memory but its place.
"""

import json
import logging
import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from fairseq.data import Dictionary

from fairseq_mhmoe.data.text import SentencePieceText

MOST_BAD = 0.05  # share of lines that may be left out
SHOWN = 5  # reasons in the log
MASK = "<mask>"  # the last symbol of a multimodal task's dictionary, which no text has

logger = logging.getLogger(__name__)


class IndexFiles:
    """The records of one split, out of one or more files, by number; safe to use in forked and spawned workers.

    Every line is read once when it is opened. Blank lines do not count; bad ones are left out, counted in `bad_lines`
    and reported with file and line.

    Args:
        paths: the files, one after the other.
        check: called with each record; raises ValueError with the reason when the record is not what it should be.
    Raises:
        ValueError: a file is missing, there are no records, or more than 5 % of the lines are bad.
    """

    def __init__(self, paths: Sequence[Path], check: Callable[[dict], None]):
        self.paths = [Path(path) for path in paths]
        self.bad_lines = 0
        self._descriptors = {}
        offsets, lines, self._ends, reasons = array("q"), array("q"), [], []
        for path in self.paths:
            for number, offset, reason in _scan(path, check):
                if reason is None:
                    offsets.append(offset)
                    lines.append(number)
                else:
                    self.bad_lines += 1
                    if len(reasons) < SHOWN:
                        reasons.append(f"{path}, line {number}: {reason}")
            self._ends.append(len(offsets))
        self._offsets, self._lines = np.array(offsets, dtype=np.int64), np.array(lines, dtype=np.int64)
        self._complain(reasons)

    def _complain(self, reasons: list[str]) -> None:
        names = ", ".join(map(str, self.paths))
        if self.bad_lines > MOST_BAD * (self.bad_lines + len(self)):
            raise ValueError(f"{self.bad_lines} of {self.bad_lines + len(self)} lines are bad: {'; '.join(reasons)}")
        if not len(self):
            raise ValueError(f"{names}: no records; expected one JSON object a line")
        if self.bad_lines:
            logger.warning(f"{names}: {self.bad_lines} bad lines are left out: {'; '.join(reasons)}")

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> dict:
        """The record; ValueError when the file has changed since it was opened."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        try:
            return json.loads(self._line(number, int(self._offsets[index])))
        except ValueError:
            raise ValueError(f"{self.place(index)}: the file has changed while it was read; start again") from None

    def place(self, index: int) -> str:
        """Where the record stands: "vqa.train.jsonl, line 12"."""
        return f"{self.paths[bisect_right(self._ends, index)]}, line {self._lines[index]}"

    def _line(self, number: int, offset: int) -> bytes:
        if number not in self._descriptors:
            self._descriptors[number] = _Descriptor(self.paths[number])
        parts, size = [], 4096
        while True:
            # reading at a place shares no position with other processes
            part = os.pread(self._descriptors[number].number, size, offset)
            line, newline, _ = part.partition(b"\n")
            parts.append(line)
            if newline or len(part) < size:
                return b"".join(parts)
            offset += size

    def __getstate__(self):
        return {**vars(self), "_descriptors": {}}


class _Descriptor:
    """An open file, closed with its holder."""

    def __init__(self, path: Path):
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self):
        if hasattr(self, "number"):
            os.close(self.number)


def _scan(path: Path, check: Callable[[dict], None]):
    """(line number, offset, None or what is wrong) of the lines that are not blank."""
    if not path.is_file():
        there = sorted(file.name for file in path.parent.glob("*.jsonl")) if path.parent.is_dir() else []
        raise ValueError(f"no index file {path}; found: {', '.join(there[:20]) or 'none'}")
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, offset, _reason(line, check)
            offset += len(line)


def _reason(line: bytes, check: Callable[[dict], None]) -> str | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return "no JSON"
    if not isinstance(record, dict):
        return "no JSON object"
    try:
        check(record)
    except ValueError as error:
        return str(error)
    return None


def image_file(root: Path, name: object) -> Path:
    """Where a record's image lies.

    Args:
        root: folder of images. name: "image_path" of a record.
    Raises:
        ValueError: it is no relative path inside the folder.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"the image is {name!r}, expected a path relative to the folder of images")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"the image {name!r} lies outside of the folder of images; expected a relative path")
    return root / name


class RecordText:
    """Tokens of a record's text.

    Args:
        dictionary: of the model, with <mask> or without. spm_model: None where all texts are token numbers.
        longest: texts are cut to this many tokens, <s> and </s> among them.
    """

    def __init__(self, dictionary: Dictionary, spm_model: Path | None, longest: int):
        self._dictionary, self._spm_model, self._longest = dictionary, spm_model, longest
        self._tokenizer = None

    def check(self, record: dict) -> None:
        """ValueError when the record has no text, or one that can't be read."""
        text = text_of(record)
        if isinstance(text, str):
            if self._spm_model is None:
                raise ValueError("the text is a string, and the data folder has no spm.model to encode it with")
            if not text.strip():
                raise ValueError("the text is empty")
            return
        first, last = self._dictionary.unk(), len(self._dictionary) - 1 - (MASK in self._dictionary)
        wrong = [token for token in text if type(token) is not int or not first <= token <= last]
        if wrong:
            raise ValueError(f"token {wrong[0]!r} is not in the dictionary; expected numbers from {first} to {last}")

    def tokens(self, record: dict) -> np.ndarray:
        """<s> tokens </s>, int64 [T]."""
        text = text_of(record)
        numbers = self.encode(text) if isinstance(text, str) else text
        inside = list(numbers)[: self._longest - 2]
        return np.array([self._dictionary.bos(), *inside, self._dictionary.eos()], dtype=np.int64)

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, without <s> and </s>."""
        if self._tokenizer is None:
            self._tokenizer = SentencePieceText(self._spm_model, self._dictionary)
        return [self._dictionary.index(symbol) for symbol in self._tokenizer.encode(text).split()]

    def __getstate__(self):
        return {**vars(self), "_tokenizer": None}


def text_of(record: dict) -> str | list:
    """A record's text: a string, or token numbers; ValueError without one."""
    for key in ("text_segment", "text"):
        text = record.get(key)
        if isinstance(text, str) or (isinstance(text, list) and text and key == "text_segment"):
            return text
    raise ValueError('no text: expected "text_segment" with token numbers, or "text" with a string')
