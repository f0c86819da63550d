"""Local data of a task: JSON lines with the fields of its data set on the hub, one file a split."""

import json
from dataclasses import dataclass
from pathlib import Path

from data_prep.files import sha256_of

SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


@dataclass(frozen=True)
class LocalData:
    """Files of one task.

    splits: {name in the task's YAML: split of the data set}, those that the official YAML names. files: {split: file}.
    """

    task: str
    splits: dict[str, str]
    files: dict[str, Path]

    @property
    def evaluated(self) -> str:
        """The split that the harness evaluates: test if there is one, else validation."""
        there = [self.splits.get(name) for name in ("test_split", "validation_split")]
        return next(split for split in there if split in self.files)

    @property
    def official(self) -> str:
        """The split that the harness evaluates with the hub's data."""
        return self.splits.get("test_split") or self.splits["validation_split"]

    @property
    def has_examples(self) -> bool:
        """Whether there are records for few-shot examples beside those that are evaluated."""
        return any(self.splits.get(name) in self.files for name in ("training_split", "fewshot_split"))

    def summary(self) -> dict:
        """Plain data that tell these files from others."""
        return {
            split: {"file": str(path), "records": count_records(path), "sha256": sha256_of(path)}
            for split, path in self.files.items()
        } | {"evaluated": self.evaluated, "official_split": self.official}


def find_local(folder: Path, task: str, official: dict) -> LocalData:
    """The files of a task in its folder.

    Args:
        official: the configuration of the official YAML.
    Raises:
        ValueError: no file of a split that is evaluated, files of no split, or lines that are no JSON objects.
    """
    splits = {name: official[name] for name in SPLITS if official.get(name)}
    expected = ", ".join(f"{split}.jsonl" for split in dict.fromkeys(splits.values()))
    files = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    if unknown := sorted(set(files) - set(splits.values())):
        raise ValueError(f"{files[unknown[0]]} is no split of {task}; expected some of {expected}")
    if not {splits.get("test_split"), splits.get("validation_split")} & set(files):
        raise ValueError(f"{folder} has no records to evaluate; expected some of {expected}, with the hub's fields")
    for path in files.values():
        count_records(path)
    return LocalData(task, splits, files)


def count_records(path: Path) -> int:
    """Records of a file; ValueError for a line that is none, or for a file without any."""
    count = 0
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}: no JSON object; expected a record of the task a line")
            count += 1
    if not count:
        raise ValueError(f"{path} is empty; expected a record of the task a line")
    return count
