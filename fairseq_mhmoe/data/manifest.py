"""manifest.json of a prepared folder, as far as training and evaluation need it."""

import json
import re
from pathlib import Path

MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict | None:
    """The folder's manifest, or None when it has none; ValueError when the file is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(manifest.get("sources"), list):
            # of one source, as written before there were several: its input files
            del manifest["sources"]
        # what is looked up below, in sources.py and in checks.py
        manifest["dictionary"]["sha256"], manifest["splits"].items()
        for source in manifest.get("sources", {}).values():
            Path(source["folder"]), source["splits"].items()
        file_sizes(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); prepare the folder again, or remove the file") from None
    return manifest


def file_sizes(manifest: dict) -> dict[str, int]:
    """Bytes of each index file that the manifest lists, by its path within the folder."""
    lists = [manifest.get("files", {}), *(split.get("files", {}) for split in manifest["splits"].values())]
    return {name: file["size"] for files in lists for name, file in files.items()}


def split_counts(manifest: dict, split: str) -> dict | None:
    """{"documents", "tokens", "bytes"} of a split, or of one source in it ("wikipedia/valid"); None where not counted.

    A shard ("train1") has no counts of its own: those of its split stand for it.
    """
    source, _, name = split.rpartition("/")
    if source:
        counted = manifest.get("sources", {}).get(source, {}).get("splits", {})
    else:
        counted = manifest["splits"]
    return counted.get(name) or counted.get(re.sub(r"\d+$", "", name))


def bytes_per_token(manifest: dict, split: str) -> float | None:
    """UTF-8 bytes of text per token, eos included; `split` as in `split_counts`. None where not counted."""
    counts = split_counts(manifest, split) or {}
    return counts["bytes"] / counts["tokens"] if counts.get("bytes") and counts.get("tokens") else None
