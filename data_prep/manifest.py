"""manifest.json: what a prepared folder holds, where it comes from, and whether it is complete."""

import json
from collections import Counter
from pathlib import Path

from datatrove.pipeline.base import PipelineStep

from data_prep.files import sha256_of, write_text
from data_prep.splits import SPLITS

MANIFEST = "manifest.json"
DICTIONARY = "dict.txt"
MODEL = "spm.model"


def stage_totals(logging_dir: Path, step: PipelineStep) -> Counter[str]:
    """Sums of a step's statistics over all tasks, those finished in earlier runs included: label -> total."""
    totals = Counter()
    for path in sorted(logging_dir.glob("stats/*.json")):
        for stats in json.loads(path.read_text(encoding="utf-8")):
            if stats["name"] == str(step):
                for label, value in stats["stats"].items():
                    totals[label] += int(value["total"] if isinstance(value, dict) else value)
    return totals


def describe_file(path: Path) -> dict:
    """Size in bytes and SHA-256 of a file."""
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def build_manifest(folder: Path, description: dict, vocab_size: int, dictionary_size: int, counts: dict) -> dict:
    """Manifest of the files in `folder`.

    Args:
        description: keys to start with: name, license, sources, ...
        vocab_size, dictionary_size: pieces of the SentencePiece model; symbols of fairseq's Dictionary.
        counts: per split the numbers of documents, tokens (each document's eos included) and bytes (UTF-8).
    """
    return description | {
        "tokenizer": {
            "kind": "sentencepiece",
            "file": MODEL,
            "vocab_size": vocab_size,
            "sha256": sha256_of(folder / MODEL),
        },
        "dictionary": {"file": DICTIONARY, "size": dictionary_size, "sha256": sha256_of(folder / DICTIONARY)},
        "splits": {
            split: {key: counts[split][key] for key in ("documents", "tokens", "bytes")}
            | {"files": {name: describe_file(folder / name) for name in (f"{split}.bin", f"{split}.idx")}}
            for split in SPLITS
        },
    }


def write_manifest(folder: Path, manifest: dict) -> None:
    """Write it atomically: from then on the folder counts as complete."""
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def read_complete(folder: Path, fingerprint: str) -> dict | None:
    """The folder's manifest if it was made with this fingerprint and every file still has its hash, else None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        hashes = {manifest[part]["file"]: manifest[part]["sha256"] for part in ("tokenizer", "dictionary")}
        for split in manifest["splits"].values():
            hashes |= {name: file["sha256"] for name, file in split["files"].items()}
        complete = manifest["fingerprint"] == fingerprint and all(
            sha256_of(folder / name) == sha256 for name, sha256 in hashes.items()
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None  # missing, damaged or foreign: prepare again
    return manifest if complete else None
