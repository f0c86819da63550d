"""manifest.json: what a prepared folder holds, where it comes from, and whether it is complete."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data_prep.files import sha256_of, write_text

MANIFEST = "manifest.json"
DICTIONARY = "dict.txt"
# of the manifest's layout; folders without it have one source and a list of files under "sources"
FORMAT = 2


def task_totals(logging_dir: Path, step: str) -> Iterator[tuple[int, Counter[str]]]:
    """A step's statistics in each finished task: number of the task, label -> total.

    step: the step as datatrove prints it, `str(step)`.
    """
    for path in sorted(logging_dir.glob("stats/*.json")):
        totals = Counter()
        for stats in json.loads(path.read_text(encoding="utf-8")):
            if stats["name"] == step:
                for label, value in stats["stats"].items():
                    totals[label] += int(value["total"] if isinstance(value, dict) else value)
        yield int(path.stem), totals


def stage_totals(logging_dir: Path, step: str) -> Counter[str]:
    """Sums of a step's statistics over all tasks, those finished in earlier runs included: label -> total."""
    return sum((totals for _, totals in task_totals(logging_dir, step)), Counter())


def labelled(totals: Counter[str], label: str) -> dict[str, int]:
    """The totals whose label starts with LABEL/, under the rest of their label, sorted."""
    prefix = label + "/"
    return {key[len(prefix) :]: value for key, value in sorted(totals.items()) if key.startswith(prefix)}


def describe_file(path: Path) -> dict:
    """Size in bytes and SHA-256 of a file."""
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def write_manifest(folder: Path, manifest: dict) -> None:
    """Write it atomically: from then on the folder counts as complete."""
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def read_complete(folder: Path, fingerprint: str, hashes: bool = True) -> dict | None:
    """The folder's manifest if it was made with this fingerprint and every file still has its hash, else None.

    Without `hashes`, for files that were just written, the sizes of the indexes are enough.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["fingerprint"] != fingerprint:
            return None
        indexes = {name: file for split in manifest["splits"].values() for name, file in split["files"].items()}
        complete = all((folder / name).stat().st_size == file["size"] for name, file in indexes.items())
        if complete and hashes:
            files = indexes | {manifest[part]["file"]: manifest[part] for part in ("tokenizer", "dictionary")}
            complete = all(sha256_of(folder / name) == file["sha256"] for name, file in files.items())
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None  # missing, damaged or foreign: prepare again
    return manifest if complete else None
