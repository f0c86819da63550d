"""Which experts of a multimodal model are in use, over the records of its data: images and texts apart.

Nothing is masked: what is counted is how the model routes whole images and texts. B rows, S side of an image in pixels,
P patches, T text length.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.data import data_utils
from torch import Tensor

from fairseq_mhmoe.analysis.activation import LayerCounts, empty_counts
from fairseq_mhmoe.data.multimodal_batches import MultimodalDataset
from fairseq_mhmoe.data.multimodal_streams import Record
from fairseq_mhmoe.evaluation.loading import Loaded
from fairseq_mhmoe.evaluation.stream_routing import MODALITIES, route_stream

# stream -> modalities of its rows
STREAMS = {"image": ("image",), "text": ("text",), "pair": ("image", "text")}


@dataclass(frozen=True)
class StreamBatch:
    """What the model reads next, of one stream."""

    stream: str
    images: Tensor | None  # uint8 [B, 3, S, S]
    tokens: Tensor | None  # [B, T] int64, pads on the right
    count: int  # tokens without pads: of each image a class token and the patches, of each text its symbols
    done: float  # share of the whole work, 0..1, that is done after this batch


def stream_batches(
    loaded: Loaded,
    split: str,
    batch_size: int,
    streams: Sequence[str] | None = None,
    max_records: int | None = None,
) -> tuple[list[str], Iterator[StreamBatch]]:
    """The records of a split in their order, stream after stream, without masks.

    Args:
        batch_size: B.
        streams: keys of STREAMS; None for all that the model was trained on.
        max_records: of each stream, the first ones; None for all.
    Returns:
        names of what is counted apart (`source_names`), and the batches.
    Raises:
        ValueError: no such split or stream, or the checkpoint is of another task.
    """
    loaded.task.load_dataset(split)
    dataset = loaded.task.dataset(split)
    if not isinstance(dataset, MultimodalDataset):
        raise ValueError(
            f"{loaded.path} was trained with task {loaded.cfg.task._name}; expected a checkpoint of task "
            "masked_multimodal, which reads images, texts and pairs"
        )
    missing = [name for name in streams or () if name not in dataset.streams]
    if missing:
        there = ", ".join(dataset.streams)
        raise ValueError(f"--streams {missing[0]}: expected some of {there}, which {loaded.path} was trained on")
    lengths = {
        name: stream.length if max_records is None else min(stream.length, max_records)
        for name, stream in dataset.streams.items()
        if not streams or name in streams
    }

    def batches() -> Iterator[StreamBatch]:
        whole, before = max(sum(lengths.values()), 1), 0
        for name, length in lengths.items():
            for start in range(0, length, batch_size):
                items = [dataset[Record(name, 0, i)] for i in range(start, min(start + batch_size, length))]
                before += len(items)
                yield collate(loaded, name, items, before / whole)

    return source_names(lengths), batches()


def collate(loaded: Loaded, stream: str, items: Sequence[dict[str, Any]], done: float) -> StreamBatch:
    """A batch of a dataset's samples with what their masks hide."""
    images = tokens = None
    count = 0
    if "image" in items[0]:
        images = torch.stack([item["image"] for item in items])
        count += len(items) * (1 + (loaded.task.image_size // loaded.task.patch_size) ** 2)
    if "tokens" in items[0]:
        rows = [unmasked(item) for item in items]
        tokens = data_utils.collate_tokens(rows, loaded.dictionary.pad())
        count += sum(map(len, rows))
    return StreamBatch(stream, images, tokens, count, done)


def unmasked(item: dict[str, Any]) -> Tensor:
    """[T] the text of a sample, targets in their places."""
    tokens = torch.from_numpy(item["tokens"].copy())
    tokens[torch.from_numpy(item["positions"])] = torch.from_numpy(item["targets"])
    return tokens


def source_names(streams: Iterable[str]) -> list[str]:
    """What is counted apart: "image", "text", "pair image", "pair text"."""
    return [source_name(stream, modality) for stream in streams for modality in STREAMS[stream]]


def source_name(stream: str, modality: str) -> str:
    """How a modality of a stream is called."""
    return f"{stream} {modality}" if stream == "pair" else stream


def count_streams(loaded: Loaded, names: Iterable[str], batches: Iterable[StreamBatch]) -> dict[str, list[LayerCounts]]:
    """{name: counts of each set of experts}; where a set is of the other modality, it has seen nothing."""
    counts = {name: empty_counts(loaded.moe_layers()) for name in names}
    for batch in batches:
        routed = route_stream(loaded, batch.images, batch.tokens)
        for modality in MODALITIES:
            layers = getattr(routed, modality)
            if not layers:
                continue
            real = torch.ones(layers[0].wanted.shape[:2], dtype=torch.bool, device=loaded.device)
            if modality == "text":
                real = batch.tokens.to(loaded.device).ne(loaded.dictionary.pad())
            by_label = {layer.layer: layer for layer in counts[source_name(batch.stream, modality)]}
            for routing in layers:
                by_label[routing.block].add(routing, real)
    return counts
