"""manifest.json of a prepared folder, as far as training and evaluation need it."""

import json
from pathlib import Path

MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict | None:
    """The folder's manifest, or None when it has none; ValueError when the file is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        # what is looked up below and in checks.py
        manifest["dictionary"]["sha256"], manifest["splits"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); prepare the folder again, or remove the file") from None
    return manifest


def bits_per_byte(manifest: dict, split: str, bits_per_token: float) -> float:
    """Bits per UTF-8 byte of text, which can be compared between vocabularies.

    Args:
        manifest: of the folder that was evaluated. split: train, valid or test.
        bits_per_token: mean loss in base 2 over every token of the split, the eos of each document included:
            what fairseq logs as `loss`.
    Raises:
        ValueError: the manifest doesn't count this split.
    """
    counts = manifest["splits"].get(split)
    if not counts or not counts.get("bytes"):
        raise ValueError(f"the manifest counts no bytes for split {split!r}; it has {sorted(manifest['splits'])}")
    return bits_per_token * counts["tokens"] / counts["bytes"]
