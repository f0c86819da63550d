"""One data folder: its sources, and the checked files of a split of each of them."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset

from fairseq_mhmoe.data.blocks import TokenFile
from fairseq_mhmoe.data.checks import FolderCheck
from fairseq_mhmoe.data.manifest import bytes_per_token, read_manifest, split_counts
from fairseq_mhmoe.data.sources import Source, find_sources, split_files

# a line of the log for each source, unless there are hundreds of languages
LOGGED = 40

logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """The files of one source in one split. bytes_per_token: None where the manifest counts none."""

    source: Source
    files: list[TokenFile]
    bytes_per_token: float | None

    @property
    def tokens(self) -> int:
        """Of all files together."""
        return sum(file.summary.tokens for file in self.files)

    @property
    def documents(self) -> int:
        """Of all files together."""
        return sum(file.summary.documents for file in self.files)


class DataFolder:
    """A prepared folder.

    Args:
        path: of the folder. dictionary_path: file that `dictionary` was loaded from.
        absolute_paths: whether its manifest may name sources elsewhere.
    """

    def __init__(self, path: Path, dictionary_path: Path, dictionary: Dictionary, absolute_paths: bool = False):
        self.path = path
        self.manifest = read_manifest(path)
        self.sources = find_sources(path, self.manifest, absolute_paths)
        self._check = FolderCheck(path, self.manifest, dictionary_path, dictionary)

    def parts(self, split: str, chosen: Collection[str], combine: bool = False) -> list[Part]:
        """The sources that have documents in a split, with their files, all checked.

        Args:
            split: "valid": of all chosen sources; "wikipedia/valid": of this one.
            chosen: names of the sources to be read.
            combine: read the shards <split>1, <split>2, ... of a folder without subfolders too.
        Raises:
            ValueError: no source has the split, or a file is not what it should be (`FolderCheck.check`).
        """
        name, _, of_source = split.rpartition("/")
        sources = [self._source(name, chosen)] if name else [each for each in self.sources if each.name in chosen]
        parts = []
        for source in sources:
            prefixes = split_files(self.path, source, of_source, self.manifest, combine)
            if len(sources) == 1 or MMapIndexedDataset.exists(str(prefixes[0])) or self._counts(source, of_source):
                files = [TokenFile(prefix, self._check.check(prefix)) for prefix in prefixes]
                parts.append(Part(source, files, self._bytes_per_token(source, of_source)))
        if not parts:
            raise ValueError(
                f"no source in {self.path} has a split {split!r}; looked into {', '.join(s.name for s in sources[:20])}"
            )
        self._log(split, parts)
        return parts

    def check_dictionary(self) -> None:
        """ValueError where the manifest, if there is one, names another dictionary."""
        self._check.check_dictionary()

    def _source(self, name: str, chosen: Collection[str]) -> Source:
        for source in self.sources:
            if source.name == name and name in chosen:
                return source
        folder = self.path / name
        is_source = any(source.name == name or source.folder == folder for source in self.sources)
        if is_source or not folder.is_dir():
            raise ValueError(
                f"no source {name!r} in {self.path}; there are {', '.join(sorted(chosen)[:20])}"
                + ("; --sources leaves it out" if is_source else "")
            )
        return Source(name, folder)

    def _counts(self, source: Source, split: str) -> bool:
        counts = split_counts(self.manifest, f"{source.name}/{split}") if self.manifest is not None else None
        return bool(counts and counts.get("documents"))

    def _bytes_per_token(self, source: Source, split: str) -> float | None:
        if self.manifest is None:
            return None
        listed = source.name in self.manifest.get("sources", {})
        return bytes_per_token(self.manifest, f"{source.name}/{split}" if listed else split)

    def _log(self, split: str, parts: list[Part]) -> None:
        documents, tokens = sum(part.documents for part in parts), sum(part.tokens for part in parts)
        logger.info(f"{split}: {documents:,} documents, {tokens:,} tokens")
        if len(parts) > 1:
            for part in parts[:LOGGED]:
                logger.info(f"{split}: {part.source.name}: {part.documents:,} documents, {part.tokens:,} tokens")
            if len(parts) > LOGGED:
                logger.info(f"{split}: and {len(parts) - LOGGED} more sources")
