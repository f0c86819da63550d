"""Which experts of a model are in use: selections of each MoE layer's experts over a text (MH-MoE v1, figures 1a, 5).

B batch, T length, n real tokens of a batch, H heads, K choices, N experts, L MoE layers.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from fairseq_mhmoe.evaluation.activation import activation_of
from fairseq_mhmoe.evaluation.routing import LayerRouting
from fairseq_mhmoe.moe.stats import LayerStats, uniform_threshold

THRESHOLDS = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
DEFINITION = (
    "an expert of a layer is activated when its selection frequency is above the threshold; frequency is selections / "
    "tokens (per_token) or selections / sub-tokens (per_sub_token), with selections counted before capacity drops any"
)


@dataclass
class LayerCounts:
    """What one MoE layer did over a text: integer sums, so that texts can be added in any order."""

    layer: int | str  # number of the block in the model, with a modality where it has its own experts
    top_k: int
    heads: int
    selections: Tensor  # [N] int64, before capacity dropped any
    sub_tokens: int = 0  # of real tokens; pads are never counted
    dropped: int = 0  # selections that capacity dropped
    entropy_sum: float = 0.0  # of the gate, nats, over sub-tokens

    @property
    def tokens(self) -> int:
        """Real tokens that went through the layer."""
        return self.sub_tokens // self.heads

    def add(self, routing: LayerRouting, real: Tensor) -> None:
        """Count one forward pass.

        Args:
            routing: of this layer; wanted and experts [B, T, H, K], probs [B, T, H, N].
            real: [B, T] False for pads, which are left out even where the layer routes them.
        """
        num_experts = self.selections.numel()
        wanted, kept = routing.wanted[real], routing.experts[real]
        count = torch.bincount(wanted.flatten(), minlength=num_experts + 1)[:num_experts]
        self.selections += count.cpu()
        self.sub_tokens += wanted.shape[0] * wanted.shape[1]
        self.dropped += int(((wanted < num_experts) & (kept == num_experts)).sum())
        self.entropy_sum += float(torch.special.entr(routing.probs[real]).sum(-1).double().sum())

    def stats(self) -> LayerStats:
        """The same sums as the layer's own statistics, with their definitions."""
        return LayerStats(self.selections.double(), float(self.sub_tokens), float(self.dropped), self.entropy_sum)


def empty_counts(layers: Iterable) -> list[LayerCounts]:
    """Counts of nothing for (number of the block, MoELayer) pairs, as `Loaded.moe_layers` gives them."""
    return [
        LayerCounts(block, layer.config.top_k, layer.config.heads, torch.zeros(layer.config.num_experts).long())
        for block, layer in layers
    ]


def total_counts(parts: Sequence[Sequence[LayerCounts]]) -> list[LayerCounts]:
    """Counts of several texts as those of one; each part has the same L layers."""
    return [
        LayerCounts(
            of_layer[0].layer,
            of_layer[0].top_k,
            of_layer[0].heads,
            torch.stack([counts.selections for counts in of_layer]).sum(0),
            sum(counts.sub_tokens for counts in of_layer),
            sum(counts.dropped for counts in of_layer),
            sum(counts.entropy_sum for counts in of_layer),
        )
        for of_layer in zip(*parts, strict=True)
    ]


def top_share(selections: Tensor) -> float:
    """Share of all selections [N] that the busiest expert gets: 1 / N when even."""
    return float(selections.max()) / max(int(selections.sum()), 1)


def threshold_of(counts: LayerCounts, threshold: float | None = None) -> float:
    """The threshold asked for, or without one half of the frequency under an even load, K / (2 N)."""
    return uniform_threshold(counts.top_k, counts.selections.numel()) if threshold is None else threshold


def layer_figures(counts: LayerCounts, threshold: float | None = None) -> dict:
    """The figures of one layer as plain numbers.

    Args:
        threshold: of the selection frequency; None for K / (2 N).
    Returns:
        "layer", "selections" [N], "tokens", "sub_tokens", "dead" (experts never selected), "top_expert", and the
        figures that `averages` takes means of.
    """
    stats, value = counts.stats(), threshold_of(counts, threshold)
    num_experts = counts.selections.numel()
    dead = torch.nonzero(counts.selections == 0).flatten().tolist()
    return {
        "layer": counts.layer,
        "selections": counts.selections.tolist(),
        "tokens": counts.tokens,
        "sub_tokens": counts.sub_tokens,
        "dead": dead,
        "top_expert": int(counts.selections.argmax()),
        "activated_per_token": stats.activated(value, counts.heads),
        "activated_per_sub_token": stats.activated(value),
        "load_entropy": stats.load_entropy,
        "load_variation": stats.load_variation,
        "top_share": top_share(counts.selections),
        "dead_share": stats.dead_share,
        "dropped_share": stats.dropped_share,
        "gate_entropy": stats.entropy,
        "gate_entropy_normalised": stats.entropy / math.log(num_experts) if num_experts > 1 else 0.0,
    }


def averages(layers: Sequence[dict]) -> dict:
    """Means over layers of what `layer_figures` gives as fractions and entropies."""
    names = [name for name, value in layers[0].items() if isinstance(value, float)]
    return {name: sum(layer[name] for layer in layers) / len(layers) for name in names}


def curve(counts: Sequence[LayerCounts], thresholds: Sequence[float]) -> list[dict]:
    """Share of activated experts, averaged over layers, for each threshold: the papers state none.

    "over_even" is the threshold in units of the frequency under an even load, K / N.
    """
    all_stats = [layer.stats() for layer in counts]
    even = counts[0].top_k / counts[0].selections.numel()
    shares = [activation_of(all_stats, counts[0].heads, threshold) for threshold in thresholds]
    return [{"over_even": each.threshold / even, **asdict(each)} for each in shares]


def block_of(counts: LayerCounts) -> str:
    """The block in which a set of experts is."""
    return str(counts.layer).partition("_")[0]


def report(counts: Sequence[LayerCounts], threshold: float | None, thresholds: Sequence[float]) -> dict:
    """All figures of one model over one text: L layers, their averages, the curve over thresholds.

    Raises:
        ValueError: the text had no tokens.
    """
    if not any(layer.sub_tokens for layer in counts):
        raise ValueError("the text has no tokens; name a split or a file with text")
    layers = [layer_figures(layer, threshold) for layer in counts]
    means = averages(layers)
    activated = activation_of([layer.stats() for layer in counts], counts[0].heads, threshold_of(counts[0], threshold))
    block = [layer for layer in counts if block_of(layer) == block_of(counts[0])]
    return {
        "tokens": sum(layer.tokens for layer in block),
        "sub_tokens": sum(layer.sub_tokens for layer in block),
        "activated_experts": asdict(activated),
        **{name: mean for name, mean in means.items() if not name.startswith("activated_")},
        "layers": layers,
        "curve": curve(counts, thresholds),
    }
