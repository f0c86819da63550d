"""Write documents as fairseq's mmap indexes: one document is one item, ending in eos."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder, data_file_path, index_file_path

from data_prep.files import flush_to_disk
from data_prep.vocabulary import EOS, fairseq_ids, load_sentencepiece

DOCUMENTS_AT_ONCE = 64


def token_dtype(dictionary_size: int) -> type:
    """uint16 where it holds every id (fairseq's own bound), else int32."""
    return np.uint16 if dictionary_size < 65500 else np.int32


class IndexWriter:
    """PREFIX.bin and PREFIX.idx, under temporary names until `close`; use as a context manager.

    An exception inside the block leaves neither file.
    """

    def __init__(self, prefix: Path, dtype: type):
        self.prefix = prefix
        self.dtype = dtype

    def __enter__(self) -> "IndexWriter":
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = str(self.prefix.with_name(f".{self.prefix.name}.{os.getpid()}.tmp"))
        self._builder = MMapIndexedDatasetBuilder(data_file_path(self._temporary), dtype=self.dtype)
        return self

    def add(self, tokens: np.ndarray) -> None:
        """Append one item; tokens [T], any integer type."""
        self._builder.add_item(torch.from_numpy(tokens))

    def add_shard(self, prefix: Path) -> None:
        """Append all items of another index of the same dtype."""
        self._builder.merge_file_(str(prefix))

    def __exit__(self, error_type, error, traceback) -> None:
        # closes the data file in any case
        self._builder.finalize(index_file_path(self._temporary))
        for path in (data_file_path, index_file_path):
            temporary = Path(path(self._temporary))
            if error_type is None:
                flush_to_disk(temporary)
                os.replace(temporary, path(str(self.prefix)))
            else:
                temporary.unlink(missing_ok=True)


class FairseqIndexStep(PipelineStep):
    """datatrove step: tokenize documents into FOLDER/<rank>.bin and .idx; counts documents, tokens and bytes."""

    name = "🔢 fairseq index"
    type = "🔢 - TOKENIZER"

    def __init__(self, folder: str, model_path: str):
        super().__init__()
        self.folder = folder
        self.model_path = model_path

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Consume the documents of this rank's share."""
        processor = load_sentencepiece(Path(self.model_path))
        symbols, ids = fairseq_ids(processor)
        with IndexWriter(Path(self.folder) / f"{rank:05d}", token_dtype(len(symbols) + 4)) as writer:
            for batch in batched(data, DOCUMENTS_AT_ONCE):
                with self.track_time("batch"):
                    texts = [document.text for document in batch]
                    for text, pieces in zip(texts, processor.Encode(texts, num_threads=1), strict=True):
                        writer.add(np.append(ids[pieces], EOS))
                        self.stat_update("documents")
                        self.stat_update("tokens", value=len(pieces) + 1)
                        self.stat_update("bytes", value=len(text.encode("utf-8")))


def merge_shards(shards: Sequence[Path], prefix: Path, dtype: type) -> None:
    """One index out of several, in the order given."""
    with IndexWriter(prefix, dtype) as writer:
        for shard in shards:
            writer.add_shard(shard)
