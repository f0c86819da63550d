"""One model over one text: the selections of its experts, source by source, batch by batch.

Language models read a text, multimodal ones the streams of their data (activation_streams.py).
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence

from fairseq_mhmoe.analysis.activation import LayerCounts, empty_counts, report, total_counts
from fairseq_mhmoe.analysis.activation_text import Batch
from fairseq_mhmoe.evaluation.loading import Loaded
from fairseq_mhmoe.evaluation.routing import route

SECONDS_BETWEEN_LINES = 10.0


def count(loaded: Loaded, names: Iterable[str], batches: Iterable[Batch]) -> dict[str, list[LayerCounts]]:
    """{source: counts of each MoE layer} over all batches."""
    counts = {name: empty_counts(loaded.moe_layers()) for name in names}
    for batch in batches:
        routings, _ = route(loaded, batch.tokens)
        real = batch.tokens.to(loaded.device).ne(loaded.dictionary.pad())
        for layer, routing in zip(counts[batch.source], routings, strict=True):
            layer.add(routing, real)
    return counts


def figures_by_source(
    counts: dict[str, list[LayerCounts]], threshold: float | None, thresholds: Sequence[float]
) -> dict:
    """`report` of all sources together, and under "sources" that of each one which has tokens."""
    total = total_counts(list(counts.values()))
    figures = report(in_use(total) or total, threshold, thresholds)
    there = {name: in_use(layers) for name, layers in counts.items() if in_use(layers)}
    return {**figures, "sources": {name: report(layers, threshold, thresholds) for name, layers in there.items()}}


def in_use(layers: Sequence[LayerCounts]) -> list[LayerCounts]:
    """Those that have seen a token: all, but for experts of the other modality."""
    return [layer for layer in layers if layer.sub_tokens]


def progress(label: str, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches; prints from time to time how far they are."""
    begin = said = time.monotonic()
    tokens = 0
    for batch in batches:
        yield batch
        tokens += batch.count
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES or batch.done >= 1:
            said, seconds = now, max(now - begin, 1e-9)
            left = seconds * (1 - batch.done) / max(batch.done, 1e-9)
            speed = f"{tokens:,} tokens, {tokens / seconds:,.0f} a second"
            print(f"{label}: {batch.done:.0%} done, {speed}, {left:.0f} s left", file=sys.stderr, flush=True)
