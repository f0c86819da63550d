"""Assign whole documents to train, valid and test by a hash, so that neither order nor number of tasks matters."""

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from data_prep.filters import position_of
from data_prep.recipe import SPLITS, Recipe, Settings


def split_of(document: Document, seed: int, valid_share: float, test_share: float) -> str:
    """Split of a document: the same for ever for the same seed and document (see `position_of`).

    valid_share and test_share are expected shares of the documents, in [0, 1]; train gets the rest.
    """
    position = position_of(document, str(seed))
    if position < valid_share:
        return "valid"
    return "test" if position < valid_share + test_share else "train"


def expected_splits(recipe: Recipe, settings: Settings) -> list[str]:
    """The splits that must have documents: those with a share, and those that input files were made for."""
    expected = {file.split for file in recipe.inputs} - {None}
    if any(file.split is None for file in recipe.inputs):
        expected.add("train")
        expected.update(name for name in ("valid", "test") if getattr(settings, f"{name}_share") > 0)
    return [split for split in SPLITS if split in expected]


class SplitByDocument(PipelineStep):
    """datatrove step: write each document's split into its metadata, where a writer's file name can use it.

    A split that is there already, because the whole file belongs to it, stays.
    """

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
            if not document.metadata.get("split"):
                document.metadata["split"] = split_of(document, self.seed, self.valid_share, self.test_share)
            self.stat_update(document.metadata["split"])
            yield document
