"""Assign whole documents to train, valid and test by a hash, so that neither order nor number of tasks matters."""

import hashlib

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

SPLITS = ("train", "valid", "test")


def split_of(document_id: str, title: str, seed: int, valid_share: float, test_share: float) -> str:
    """Split of a document: the same for ever for the same (id, title, seed).

    valid_share and test_share are expected shares of the documents, in [0, 1]; train gets the rest.
    """
    digest = hashlib.sha256(f"{seed}\t{document_id}\t{title}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < valid_share:
        return "valid"
    return "test" if position < valid_share + test_share else "train"


class SplitByDocument(PipelineStep):
    """datatrove step: write each document's split into its metadata, where a writer's file name can use it."""

    name = "✂️ Split by document"
    type = "✂️ - SPLIT"

    def __init__(self, seed: int, valid_share: float, test_share: float):
        super().__init__()
        self.seed = seed
        self.valid_share = valid_share
        self.test_share = test_share

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Pass every document on, labelled."""
        for document in data:
            title = document.metadata["title"]
            split = split_of(document.id, title, self.seed, self.valid_share, self.test_share)
            document.metadata["split"] = split
            self.stat_update(split)
            yield document
