"""Duplicates, found by datatrove: exact copies by a hash of the text, near copies by MinHash over word 5-grams.

Of documents that are equal in this sense one is kept, whatever sources they come from. Memory: exact, 30 bytes a
document of one file; near, 70, and in one task some hundred a near duplicate of the whole corpus.
"""

import re
import resource
import sys
from array import array
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path

import datatrove.pipeline
import numpy as np
import orjson
import xxhash
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.word_tokenizers import WordTokenizer

if find_spec("tokenizers") is None and "datatrove.pipeline.dedup" not in sys.modules:
    # the __init__ imports, for a block that is not used here, the package tokenizers: do without the __init__
    _spec = PathFinder.find_spec("datatrove.pipeline.dedup", datatrove.pipeline.__path__)
    sys.modules["datatrove.pipeline.dedup"] = module_from_spec(_spec)

from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
    get_sig_dtype,
)
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)

EXACT, NEAR = "exact_duplicate", "near_duplicate"
SIGNATURES_AT_ONCE = 1000
# scripts that put no spaces between words: Thai, Lao, Myanmar, Khmer, kana, Chinese characters
WORD = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
    "|[^\\s\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]+"
)


class Words(WordTokenizer):
    """Words between white space; of scripts without spaces, characters. Needs no model and no language."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words in order."""
        return WORD.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        """Not needed by MinHash."""
        raise NotImplementedError

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Not needed by MinHash."""
        raise NotImplementedError


class CompactSignatures(ExactDedupSignature):
    """datatrove's signatures, gathered in arrays: it keeps some 200 bytes of Python objects a document."""

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Consume the documents of this rank."""
        hashes = array("Q")
        for document in data:
            self.stat_update("total")
            hashes.append(self.get_hashes(document, len(hashes))[0][0])
        signatures = np.empty(len(hashes), dtype=get_sig_dtype(self.config.hash_config))
        signatures["hash"] = np.frombuffer(hashes, dtype=np.uint64) if hashes else []
        signatures["priority"] = 1
        signatures["doc"] = np.arange(len(hashes))
        self.save_hashes(rank, signatures)


def _allow_many_files() -> None:
    """datatrove opens the signatures of all tasks at once; many systems allow 1024 files unless asked for more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class SearchCopies(ExactFindDedups):
    """datatrove's search for equal hashes, with as many files as it takes."""

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Read the signatures of all tasks."""
        _allow_many_files()
        super().run(data, rank, world_size)


class SearchNear(MinhashDedupBuckets):
    """datatrove's search for equal signatures, with as many files as it takes."""

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Read the signatures of all tasks that this rank compares."""
        _allow_many_files()
        super().run(data, rank, world_size)


class DuplicateLog:
    """Where datatrove's filters put what they drop: WORK/rejected/<rank>.<reason>.jsonl, without the text."""

    def __init__(self, folder: str, reason: str):
        self.folder = folder
        self.reason = reason
        self._file = None

    def __enter__(self) -> "DuplicateLog":
        return self

    def write(self, document: Document, rank: int = 0) -> None:
        """Note one dropped document; the first one makes the file anew."""
        if self._file is None:
            self._file = open(Path(self.folder) / f"{rank:05d}.{self.reason}.jsonl", "wb")
        entry = [self.reason, f"document {document.id}", document.metadata["source"]]
        self._file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))

    def __exit__(self, *_) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class NearSignatures(MinhashDedupSignature):
    """datatrove's MinHash signatures, which hand strings to xxhash: that takes bytes only from version 4 on."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._hash_func = _hash


def _hash(text: str) -> int:
    return xxhash.xxh64_intdigest(text.encode("utf-8"))


def _text(document: Document) -> bytes:
    return document.text.encode("utf-8")


def _exact_config() -> ExactDedupConfig:
    return ExactDedupConfig(content_getter=_text)


def exact_signatures(work: str) -> PipelineStep:
    """Hashes of a task's documents."""
    return CompactSignatures(f"{work}/exact/signatures", _exact_config())


def exact_search(work: str) -> PipelineStep:
    """Find equal hashes; one task."""
    folders = f"{work}/exact/signatures", f"{work}/exact/duplicates"
    return SearchCopies(*folders, _exact_config(), lines_to_buffer=SIGNATURES_AT_ONCE)


def exact_filter(work: str, log: bool = False) -> PipelineStep:
    """Drop the documents of a task that were found; the same ones each time it runs."""
    writer = DuplicateLog(f"{work}/rejected", EXACT) if log else None
    return ExactDedupFilter(f"{work}/exact/duplicates", _exact_config(), exclusion_writer=writer)


NEAR_BUCKETS = MinhashConfig().num_buckets


def near_signatures(work: str) -> PipelineStep:
    """MinHash signatures of a task's documents."""
    return NearSignatures(f"{work}/near/signatures", MinhashConfig(), language=Words())


def near_buckets(work: str) -> PipelineStep:
    """Find equal signatures; NEAR_BUCKETS tasks."""
    folders = f"{work}/near/signatures", f"{work}/near/buckets"
    return SearchNear(*folders, config=MinhashConfig(), lines_to_buffer=SIGNATURES_AT_ONCE)


def near_clusters(work: str) -> PipelineStep:
    """Choose which of the documents that are near each other stay; one task."""
    folders = f"{work}/near/buckets", f"{work}/near/remove"
    return MinhashDedupCluster(*folders, MinhashConfig(), lines_to_buffer=SIGNATURES_AT_ONCE)


def near_filter(work: str) -> PipelineStep:
    """Drop the documents of a task that were not chosen."""
    log = DuplicateLog(f"{work}/rejected", NEAR)
    return MinhashDedupFilter(f"{work}/near/remove", exclusion_writer=log)
