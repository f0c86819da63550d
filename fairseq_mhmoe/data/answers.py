"""The answers that a model chooses from: answer2label.txt, one {"answer": ..., "label": ...} a line in order."""

import json
from pathlib import Path

FILE = "answer2label.txt"


def read_answers(path: Path) -> list[str]:
    """The answers by label; ValueError when the file is missing, damaged, or out of order."""
    if not path.is_file():
        raise ValueError(f"no list of answers {path}; data_prep.vqa writes it, or give --answers FILE")
    answers = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        try:
            record = json.loads(line)
            answer, label = record["answer"], int(record["label"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f'{path}, line {number + 1}: {line[:80]!r}, expected {{"answer": ..., "label": {number}}}'
            ) from None
        if label != number or not isinstance(answer, str):
            raise ValueError(f"{path}, line {number + 1}: label {label}, expected {number}; labels count from 0")
        answers.append(answer)
    if len(answers) < 2:
        raise ValueError(f"{path} has {len(answers)} answers, expected 2 or more")
    if len(set(answers)) < len(answers):
        twice = next(answer for number, answer in enumerate(answers) if answer in answers[:number])
        raise ValueError(f"{path} has the answer {twice!r} more than once; write the list again")
    return answers
