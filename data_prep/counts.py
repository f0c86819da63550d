"""What became of every record: the stages' statistics, put together by source."""

import json
from collections import Counter, defaultdict
from functools import cached_property
from pathlib import Path

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from data_prep.dedup import EXACT, NEAR
from data_prep.fairseq_index import FairseqIndexStep
from data_prep.filters import NOT_SAMPLED
from data_prep.manifest import labelled, stage_totals, task_totals
from data_prep.recipe import SPLITS, Recipe, Settings
from data_prep.splits import expected_splits
from data_prep.steps import CountBySource, ReadInputs

# of `CountBySource`: documents that were looked at, that are left without exact copies, and that were written
BEFORE, NO_COPIES, TAKEN = "before", "without copies", "taken"


def _printed(step: type[PipelineStep], name: str | None = None) -> str:
    """A step as it stands in statistics."""
    return f"{step.type}: {name or step.name}"


class Counts:
    """Numbers of documents in a work folder whose stages up to the texts, or to the indexes, are finished."""

    def __init__(self, work: Path, recipe: Recipe):
        self.work = work
        self.recipe = recipe

    @cached_property
    def _read(self) -> Counter[str]:
        return stage_totals(self.work / "logs/text", _printed(ReadInputs))

    @cached_property
    def _passed(self) -> dict[str, Counter[str]]:
        """label of a counter -> SOURCE/SPLIT -> documents that it saw."""
        logs = [self.work / "logs" / stage for stage in ("text", "unique")]
        seen = {}
        for label in (BEFORE, NO_COPIES, TAKEN):
            totals = sum((stage_totals(log, _printed(CountBySource, label)) for log in logs), Counter())
            seen[label] = Counter(labelled(totals, label))
        return seen

    def _of(self, source: str, label: str) -> int:
        return sum(self._passed[label][f"{source}/{split}"] for split in SPLITS)

    def read(self, source: str) -> int:
        """Records of a source."""
        return self._read[f"read/{source}"]

    def taken(self) -> dict[str, Counter[str]]:
        """source -> split -> documents of the texts."""
        taken = defaultdict(Counter)
        for key, documents in self._passed[TAKEN].items():
            source, split = key.split("/")
            taken[source][split] += documents
        return taken

    def sources(self) -> list[str]:
        """Sources of which at least one record or file was read, those of the recipe first."""
        named = {key.split("/")[0] for key in labelled(self._read, "read")}
        empty = {file.source for file, entry in zip(self.recipe.inputs, self.inputs, strict=True) if not entry["read"]}
        first = [source for source in self.recipe.sources() if source in named | empty]
        return first + sorted(named - set(first))

    @cached_property
    def inputs(self) -> list[dict]:
        """Per input file: file, size, sha256, read (records), rejected (by reason), sources (that it had records of),
        perhaps damage.
        """
        entries = []
        totals = dict(task_totals(self.work / "logs/text", _printed(ReadInputs)))
        for rank in range(len(self.recipe.inputs)):
            entry = json.loads((self.work / "inputs" / f"{rank:05d}.json").read_text(encoding="utf-8"))
            read, rejected = labelled(totals[rank], "read"), Counter()
            for key, count in labelled(totals[rank], "rejected").items():
                rejected[key.partition("/")[2]] += count
            counted = {"read": sum(read.values()), "rejected": dict(sorted(rejected.items())), "sources": list(read)}
            entries.append(entry | counted)
        return entries

    def damaged(self) -> list[dict]:
        """Files that were not read to their end: file, damage."""
        return [{key: entry[key] for key in ("file", "damage")} for entry in self.inputs if "damage" in entry]

    def unusable(self) -> list[dict]:
        """Files of which every record was rejected, which most often have another format: file, read, rejected."""
        return [
            {key: entry[key] for key in ("file", "read", "rejected")}
            for entry in self.inputs
            if entry["read"] == sum(entry["rejected"].values()) > entry["rejected"].get(NOT_SAMPLED, 0)
        ]

    def rejected(self, source: str) -> dict[str, int]:
        """reason -> records of a source that were not taken, duplicates included."""
        reasons = labelled(self._read, f"rejected/{source}")
        before, no_copies, taken = (self._of(source, label) for label in (BEFORE, NO_COPIES, TAKEN))
        if before:  # else no duplicates were looked for
            reasons |= {EXACT: before - no_copies, NEAR: no_copies - taken}
        return {reason: count for reason, count in sorted(reasons.items()) if count}

    def indexed(self) -> dict[str, dict[str, dict[str, int]]]:
        """source -> split -> documents, tokens, bytes of the indexes; only where there are documents."""
        indexed = defaultdict(lambda: defaultdict(dict))
        for key, value in stage_totals(self.work / "logs/index", _printed(FairseqIndexStep)).items():
            source, split, what = key.split("/")
            indexed[source][split][what] = value
        return {
            source: {split: indexed[source][split] for split in SPLITS if indexed[source][split].get("documents")}
            for source in self.sources()
            if source in indexed
        }

    def check_indexes(self) -> None:
        """RuntimeError unless the documents of the texts are those of the indexes."""
        indexed = self.indexed()
        for source, splits in self.taken().items():
            for split, documents in splits.items():
                found = indexed.get(source, {}).get(split, {}).get("documents", 0)
                if found != documents:
                    raise RuntimeError(
                        f"{documents} documents of {source} were split into {split}, but {found} came out: "
                        f"intermediate files are damaged; delete {self.work} and run again"
                    )

    def by_source(self, flat: bool) -> dict[str, dict]:
        """The manifest's "sources"; a part of a mixed file gets its share of the file's source's weight."""
        parents, files = {}, defaultdict(list)
        for file, entry in zip(self.recipe.inputs, self.inputs, strict=True):
            described = {key: entry[key] for key in ("file", "size", "sha256", "damage") if key in entry}
            for source in entry["sources"] or [file.source]:
                parents[source] = file
                files[source].append(described)
        indexed = self.indexed()
        tokens = {source: sum(split["tokens"] for split in splits.values()) for source, splits in indexed.items()}
        whole = Counter()
        for source, count in tokens.items():
            whole[parents[source].source] += count
        entries = {}
        for source in self.sources():
            parent = parents[source]
            info = self.recipe.info_of(parent.source)
            weight, rejected = parent.weight, self.rejected(source)
            if weight is not None and whole[parent.source]:
                weight *= tokens.get(source, 0) / whole[parent.source]
            read, accepted = self.read(source), self._of(source, TAKEN)
            assert read == accepted + sum(rejected.values()), (source, read, accepted, rejected)
            entries[source] = {
                "folder": "." if flat else source,
                "language": parent.language,
                "weight": weight,
                "license": info.license,
                "attribution": info.attribution,
                "inputs": files[source],
                "read": read,
                "accepted": accepted,
                "rejected": rejected,
                "splits": {
                    split: {what: total[what] for what in ("documents", "tokens", "bytes")}
                    for split, total in indexed.get(source, {}).items()
                },
            }
        return entries


class CheckTexts(PipelineStep):
    """Stop before the vocabulary when a split has no document, or a damaged file was taken that now is not allowed."""

    name = "🧐 texts"
    type = "⏳ - CHECK"

    def __init__(self, recipe: Recipe, settings: Settings, work: str):
        super().__init__()
        self.recipe = recipe
        self.settings = settings
        self.work = work

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Pass the data on; ValueError that says what was read and rejected."""
        counts = Counts(Path(self.work), self.recipe)
        damaged = counts.damaged()
        if damaged and not self.settings.allow_damaged_files:
            raise ValueError(damaged[0]["damage"])
        for file in counts.unusable():
            logger.warning(
                "{file}: all {read:,} records were rejected: {rejected}; is it of this format?".format(**file)
            )
        taken = sum(counts.taken().values(), Counter())
        if missing := [split for split in expected_splits(self.recipe, self.settings) if not taken[split]]:
            sources = counts.sources()
            rejected = sum((Counter(counts.rejected(source)) for source in sources), Counter())
            unusable = [entry["file"] for entry in counts.unusable()]
            remedy = f"see that the format is right of {', '.join(unusable[:5])}" if unusable else "give more text"
            raise ValueError(
                f"no documents for {', '.join(missing)}: {sum(map(counts.read, sources))} read, "
                f"{sum(taken.values())} accepted, rejected: {dict(sorted(rejected.items()))}; "
                f"{remedy}, or take another seed for the split"
            )
        return data
