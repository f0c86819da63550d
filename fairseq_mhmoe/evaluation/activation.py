"""Which experts of a model are in use (MH-MoE v1, figure 1). L MoE layers, N experts, H heads, K choices."""

from dataclasses import dataclass
from typing import Sequence

from torch import Tensor

from fairseq_mhmoe.moe.stats import LayerStats, uniform_threshold, unpack


@dataclass(frozen=True)
class Activation:
    """Share of experts, over all MoE layers, whose selection frequency is above `threshold`.

    Frequency is selections / tokens or selections / sub-tokens. Counted per token, MH-MoE has H times as many
    selections as a model without heads; the share per sub-token is the one that compares like with like.
    """

    threshold: float
    per_token: float
    per_sub_token: float


def activated_experts(layer_stats: Sequence[Tensor], top_k: int, heads: int) -> Activation | None:
    """Count the experts in use, with half of the uniform frequency, K / (2 N), as the threshold.

    Args:
        layer_stats: L tensors [N + 3] as MoELayer returns them, summed over the batches of a text.
        top_k, heads: K and H of the layers.
    Returns:
        the shares; None for a model without MoE layers.
    """
    if not layer_stats:
        return None
    layers = [unpack(stats) for stats in layer_stats]
    return activation_of(layers, heads, uniform_threshold(top_k, layers[0].load.numel()))


def activation_of(layers: Sequence[LayerStats], heads: int, threshold: float) -> Activation:
    """The share of experts above a threshold, averaged over L layers (at least one) of H heads."""

    def share(sub_tokens_per_unit: int) -> float:
        return sum(layer.activated(threshold, sub_tokens_per_unit) for layer in layers) / len(layers)

    return Activation(threshold, per_token=share(heads), per_sub_token=share(1))
