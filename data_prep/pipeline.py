"""The stages from raw files to a prepared folder, on datatrove; killed at any point, the next call goes on.

OUTPUT/work/<fingerprint of inputs and settings>/ holds each stage's result and datatrove's marks of finished tasks.
Every input file is one task and one shard, so the result doesn't depend on how the work was spread.
OUTPUT/manifest.json is written last: without it the folder is not finished.
"""

import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import multiprocess
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.logging import logger

from data_prep.fairseq_index import FairseqIndexStep, merge_shards, token_dtype
from data_prep.files import copy, sha256_of, write_text
from data_prep.manifest import (
    DICTIONARY,
    MANIFEST,
    MODEL,
    build_manifest,
    read_complete,
    stage_totals,
    write_manifest,
)
from data_prep.splits import SPLITS, SplitByDocument
from data_prep.vocabulary import (
    FAIRSEQ_SPECIALS,
    SentencePieceTrainer,
    dictionary_text,
    fairseq_ids,
    load_sentencepiece,
)

# To be raised when the same inputs and settings give other bytes than before.
PIPELINE_VERSION = 1
# Libraries that decide bytes of the output.
LIBRARIES = ("mwparserfromhell", "sentencepiece")


@dataclass(frozen=True)
class Corpus:
    """What to prepare.

    name, license, attribution: for the manifest. files: the input files, in the order of their names.
    reader: datatrove step that makes documents of these files, one file per task, with a `title` in their metadata.
    cleaner: filter that makes clean text of a document or rejects it with a reason.
    """

    name: str
    license: str
    attribution: str
    files: Sequence[Path]
    reader: PipelineStep
    cleaner: BaseFilter


@dataclass(frozen=True)
class Settings:
    """Numbers that decide what the output is.

    vocab_size: pieces of the vocabulary, special ones included. seed: of the split.
    valid_share, test_share: expected shares of the documents. min_chars: shorter documents are rejected.
    """

    vocab_size: int = 8000
    seed: int = 0
    valid_share: float = 0.05
    test_share: float = 0.05
    min_chars: int = 200

    def __post_init__(self):
        if self.vocab_size < 300:
            raise ValueError(
                f"vocab_size is {self.vocab_size}; expected 300 or more: 4 special and 256 byte pieces are always there"
            )
        if min(self.valid_share, self.test_share) < 0 or self.valid_share + self.test_share >= 1:
            raise ValueError(
                f"valid_share {self.valid_share} and test_share {self.test_share} must be 0 or more and leave a rest "
                "for training"
            )


def prepare(corpus: Corpus, settings: Settings, output: Path) -> dict:
    """Make OUTPUT a prepared folder and return its manifest; what is already there is used again.

    The result is the same, byte for byte, however often and wherever earlier calls were interrupted.

    Raises:
        ValueError: an input is damaged, or the text is too little for the vocabulary or for three splits.
        RuntimeError: another call works on the same folder, or intermediate files were tampered with.
    """
    sources = [{"file": path.name, "size": path.stat().st_size, "sha256": sha256_of(path)} for path in corpus.files]
    fingerprint = _fingerprint(corpus, settings, sources)
    if manifest := read_complete(output, fingerprint):
        logger.info(f"{output} is complete")
        return manifest
    work = output / "work" / fingerprint[:16]
    with _locked(output / "work"):
        splitter = SplitByDocument(settings.seed, settings.valid_share, settings.test_share)
        _run_stage(
            work,
            "text",
            [
                corpus.reader,
                corpus.cleaner,
                splitter,
                JsonlWriter(str(work / "text"), output_filename="${split}/${rank}.jsonl", compression=None),
            ],
            tasks=len(corpus.files),
        )
        cleaned = stage_totals(work / "logs/text", corpus.cleaner)
        rejected = _rejected(cleaned)
        documents = stage_totals(work / "logs/text", splitter)
        if missing := [split for split in SPLITS if not documents[split]]:
            raise ValueError(
                f"no documents for {', '.join(missing)}: {cleaned['total']} read, {cleaned['forwarded']} accepted, "
                f"rejected: {rejected}; give more text, or another seed for the split"
            )
        model = work / MODEL
        trainer = SentencePieceTrainer(str(model), settings.vocab_size)
        _run_stage(work, "vocabulary", [JsonlReader(str(work / "text/train")), trainer], tasks=1)
        counts = {}
        for split in SPLITS:
            indexer = FairseqIndexStep(str(work / "index" / split), str(model))
            shards = len(list((work / "text" / split).glob("*.jsonl")))
            _run_stage(work, f"index-{split}", [JsonlReader(str(work / "text" / split)), indexer], tasks=shards)
            counts[split] = stage_totals(work / f"logs/index-{split}", indexer)
            if counts[split]["documents"] != documents[split]:
                raise RuntimeError(
                    f"{documents[split]} documents were split into {split}, but {counts[split]['documents']} came out: "
                    f"intermediate files are damaged; delete {work} and run again"
                )
        description = {
            "name": corpus.name,
            "license": corpus.license,
            "attribution": corpus.attribution,
            "sources": sources,
            "fingerprint": fingerprint,
            "settings": asdict(settings),
            "read": cleaned["total"],
            "rejected": rejected,
        }
        return _publish(work, output, description, counts)


def _run_stage(work: Path, name: str, steps: list[PipelineStep], tasks: int) -> None:
    logger.info(f"stage {name}")
    workers = min(tasks, os.cpu_count() or 1)
    # the server that forks datatrove's workers imports fairseq once, instead of each worker for itself
    multiprocess.get_context("forkserver").set_forkserver_preload([__name__])
    LocalPipelineExecutor(steps, tasks=tasks, workers=workers, logging_dir=str(work / "logs" / name)).run()


def _rejected(totals: Counter[str]) -> dict[str, int]:
    """reason -> count; checks that every document was accepted or rejected for a reason."""
    prefix = "dropped_"
    rejected = {key[len(prefix) :]: count for key, count in sorted(totals.items()) if key.startswith(prefix)}
    assert totals["forwarded"] + sum(rejected.values()) == totals["total"], totals
    return rejected


def _publish(work: Path, output: Path, description: dict, counts: dict[str, Counter[str]]) -> dict:
    """Put the final files in place; the manifest goes first when it is stale, and comes last."""
    (output / MANIFEST).unlink(missing_ok=True)
    for left_over in output.glob(".*.tmp*"):  # of a call that was killed
        left_over.unlink()
    processor = load_sentencepiece(work / MODEL)
    symbols, _ = fairseq_ids(processor)
    dictionary_size = len(FAIRSEQ_SPECIALS) + len(symbols)
    copy(work / MODEL, output / MODEL)
    write_text(output / DICTIONARY, dictionary_text(symbols))
    for split in SPLITS:
        shards = sorted(path.with_suffix("") for path in (work / "index" / split).glob("[0-9]*.idx"))
        merge_shards(shards, output / split, token_dtype(dictionary_size))
    manifest = build_manifest(output, description, len(processor), dictionary_size, counts)
    write_manifest(output, manifest)
    for split in SPLITS:
        logger.info("{}: {documents:,} documents, {tokens:,} tokens, {bytes:,} bytes".format(split, **counts[split]))
    return manifest


def _fingerprint(corpus: Corpus, settings: Settings, sources: list[dict]) -> str:
    recipe = {
        "pipeline": PIPELINE_VERSION,
        "libraries": {name: version(name) for name in LIBRARIES},
        "corpus": [corpus.name, corpus.license, corpus.attribution],
        "steps": [str(corpus.reader), str(corpus.cleaner)],
        "settings": asdict(settings),
        "sources": sources,
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            # not flock: datatrove's helper processes would inherit that and keep it after a kill
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise RuntimeError(f"another process prepares {folder.parent}; wait for it, or stop it") from None
        yield
