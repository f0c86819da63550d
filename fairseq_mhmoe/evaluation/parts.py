"""The sources of a split, which are scored one by one, and the bytes of their text."""

from pathlib import Path

from fairseq.data.indexed_dataset import MMapIndexedDataset

from fairseq_mhmoe.data.manifest import bytes_per_token, split_counts
from fairseq_mhmoe.data.sources import find_sources


def parts_of(task, folder: Path, manifest: dict | None, split: str) -> dict[str, str]:
    """{name of a source: its split, as the task loads it}.

    Args:
        split: "valid" of all sources that the task reads and that have documents in it, or "de/valid" of one.
    """
    names = list(getattr(task, "source_names", ()))
    if "/" in split:
        return {split.rpartition("/")[0]: split}
    if len(names) < 2:
        return dict.fromkeys(names or [""], split)
    sources = find_sources(folder, manifest, task.args.absolute_path)
    there = [source.name for source in sources if source.name in names and has_documents(source, manifest, split)]
    # without any the task tells what it has looked for
    return {name: f"{name}/{split}" for name in there} or {names[0]: split}


def has_documents(source, manifest: dict | None, split: str) -> bool:
    """Whether a source has files of a split, or should have them."""
    counts = split_counts(manifest, f"{source.name}/{split}") if manifest else None
    return MMapIndexedDataset.exists(str(source.folder / split)) or bool(counts and counts.get("documents"))


def bytes_of(manifest: dict | None, name: str, split: str, tokens: int) -> float | None:
    """UTF-8 bytes of the text of these tokens of one source; None where the manifest counts none.

    Args:
        name, split: as `parts_of` gives them.
    """
    if manifest is None:
        return None
    listed = name in manifest.get("sources", {}) and "/" not in split
    ratio = bytes_per_token(manifest, f"{name}/{split}" if listed else split)
    return None if ratio is None else tokens * ratio
