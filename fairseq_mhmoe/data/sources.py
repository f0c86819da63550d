"""Where the sources (corpora, languages) of a prepared folder lie, and the files of each split.

FOLDER/<source>/<split>.{bin,idx}, or FOLDER/<split>.{bin,idx} with one source ("flat"); more shards of a split are
<split>1, <split>2, ... as fairseq numbers them.
"""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fairseq.data.indexed_dataset import MMapIndexedDataset

from fairseq_mhmoe.data.manifest import MANIFEST, file_sizes

SHOWN = 12


class Source(NamedTuple):
    """A corpus or language. folder: of its index files. weight: what the manifest says, None where it does not."""

    name: str
    folder: Path
    weight: float | None = None


def find_sources(folder: Path, manifest: dict | None, absolute_paths: bool = False) -> list[Source]:
    """The sources that the manifest lists; without a list the folder itself or its subfolders with index files.

    Raises:
        ValueError: the manifest names a place outside of the folder, unless absolute_paths.
    """
    if manifest is not None and manifest.get("sources"):
        return [
            Source(name, _place(folder, name, entry["folder"], absolute_paths), entry.get("weight"))
            for name, entry in manifest["sources"].items()
        ]
    if not any(folder.glob("*.idx")):
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and any(path.glob("*.idx")))
        if inside:
            return [Source(path.name, path) for path in inside]
    return [Source((manifest or {}).get("name") or folder.resolve().name, folder)]


def _place(folder: Path, name: str, place: str, absolute_paths: bool) -> Path:
    path = Path(place)
    if path.is_absolute() and not absolute_paths:
        raise ValueError(
            f"{folder / MANIFEST}: source {name!r} lies at {place}, outside of the folder; --absolute-path allows that"
        )
    if ".." in path.parts:
        raise ValueError(f"{folder / MANIFEST}: source {name!r} lies at {place}; expected a folder within {folder}")
    return folder / path


def choose_sources(sources: Sequence[Source], names: str | None) -> list[Source]:
    """Those that a comma-separated list names, in the folder's order; all without a list. ValueError for unknown ones.

    A source's name must not hold a comma.
    """
    if names is None:
        return list(sources)
    wanted = [name.strip() for name in names.split(",")]
    known = {source.name for source in sources}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"--sources: no source {unknown[0]!r}; the data have {_some(sorted(known))}")
    return [source for source in sources if source.name in wanted]


def has_split(source: Source, split: str) -> bool:
    """Whether there are files of a split, not looking into them."""
    return MMapIndexedDataset.exists(str(source.folder / split))


def split_files(folder: Path, source: Source, split: str, manifest: dict | None, combine: bool = False) -> list[Path]:
    """Prefixes of a split's files: one, or all shards with `combine`, in subfolders, or where the manifest says so.

    A name that ends in a number ("train1") means that shard alone, unless `combine`. The first file need not exist.

    Raises:
        ValueError: shards are missing between others, or the manifest lists files that are not there.
    """
    first = source.folder / split
    listed = _listed(folder, source, split, manifest)
    is_shard = split[-1:].isdigit()
    if not combine and (is_shard or (source.folder == folder and len(listed) < 2)):
        return [first]
    more = (first.with_name(f"{first.name}{number}") for number in itertools.count(1))
    prefixes = [first, *itertools.takewhile(lambda prefix: MMapIndexedDataset.exists(str(prefix)), more)]
    numbered = re.compile(re.escape(first.name) + r"(\d*)\.idx")
    there = {path.stem for path in first.parent.glob(f"{first.name}*.idx") if numbered.fullmatch(path.name)}
    left_out = sorted((there | set(listed)) - {prefix.name for prefix in prefixes}) if not is_shard else []
    if left_out:
        raise ValueError(
            f"{first.parent} has or should have {_some(left_out)}, but {first.name}{len(prefixes)} is missing before "
            "it or incomplete: fairseq numbers shards without gaps; restore the file, or prepare the data again"
        )
    return prefixes


def _listed(folder: Path, source: Source, split: str, manifest: dict | None) -> list[str]:
    """Names of the split's shards in the manifest."""
    if manifest is None or not source.folder.is_relative_to(folder):
        return []
    place = source.folder.relative_to(folder)
    pattern = re.compile(re.escape((place / split).as_posix()) + r"\d*\.idx")
    return [Path(name).stem for name in file_sizes(manifest) if pattern.fullmatch(Path(name).as_posix())]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
