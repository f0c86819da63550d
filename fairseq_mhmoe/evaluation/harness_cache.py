"""Answers to requests in a file, so that an interrupted evaluation goes on and a repeated one asks the model nothing.

JSON lines {"key": ..., "answer": ...}: nothing in the file is executed, unlike in the harness's own cache, which
unpickles what it reads. A key is a hash of the checkpoint's content, how it is run, and the request.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

Answer = list | float | str


def key_of(*parts) -> str:
    """A hash of plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class AnswerCache:
    """Answers by key; in memory, and in a file if there is one.

    Args:
        path: the file, made if missing; None for none.
        writing: whether this process adds to the file (one of a job does).
    Raises:
        ValueError: the file is in use by another program, or something other than a cache.
    """

    def __init__(self, path: Path | None, writing: bool = True):
        self.answers: dict[str, Answer] = {}
        self._file = None
        if path is None:
            return
        if writing:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.close()
                raise ValueError(
                    f"--cache {path}: another program uses it; wait for it, or name another file"
                ) from None
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            key, answer = read_line(path, number, line)
            self.answers[key] = answer
        if len(whole) < len(content):
            logger.warning(f"{path}: the last line was not written to its end; that request is asked again")
            if self._file is not None:
                os.truncate(path, len(whole))

    def add(self, answers: Iterable[tuple[str, Answer]]) -> None:
        """Keep more answers; they are on the disk when this returns."""
        answers = list(answers)
        self.answers.update(answers)
        if self._file is not None and answers:
            lines = [json.dumps({"key": key, "answer": answer}) + "\n" for key, answer in answers]
            self._file.write("".join(lines).encode())
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let other programs use the file."""
        if self._file is not None:
            self._file.close()


def read_line(path: Path, number: int, line: bytes) -> tuple[str, Answer]:
    """Key and answer of a line; ValueError when it holds none."""
    try:
        entry = json.loads(line)
        key, answer = entry["key"], entry["answer"]
    except (ValueError, KeyError, TypeError):
        key = answer = None
    if not (isinstance(key, str) and (isinstance(answer, float | str) or is_pair(answer))):
        raise ValueError(f"--cache {path}, line {number}: no answer of mhmoe-lm-eval; delete the file, or name another")
    return key, answer


def is_pair(answer: Answer | None) -> bool:
    """Whether an answer is that of loglikelihood."""
    return isinstance(answer, Sequence) and [type(part) for part in answer] == [float, bool]
