"""To how many different experts the sub-tokens of a token go, and what chance alone would give (MH-MoE v1, figure 7).

T tokens, L MoE layers, H heads, K choices, N experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fairseq_mhmoe.evaluation.loading import Loaded
from fairseq_mhmoe.evaluation.routing import LayerRouting

DEFINITION = (
    "diversity of a token: the number of different experts among the K choices of its H sub-tokens, as the router "
    "wants them (before capacity), averaged over the MoE layers; by first choice: the same with each sub-token's first "
    "choice alone"
)


@dataclass(frozen=True)
class Sizes:
    """What decides which numbers are possible: experts N, heads H, choices K, and the blocks with MoE layers."""

    experts: int
    heads: int
    top_k: int
    blocks: tuple[int, ...]

    @property
    def largest(self) -> int:
        """The most different experts that a token can go to; the least is 1 (K by all choices, which always differ)."""
        return min(self.experts, self.heads * self.top_k)


def sizes_of(loaded: Loaded) -> Sizes:
    """N, H, K and L of a model.

    Raises:
        ValueError: the model has no MoE layers, or no sub-tokens whose experts could differ.
    """
    layers = loaded.moe_layers()
    if not layers:
        raise ValueError(f"{loaded.path} is a dense model: no token goes to an expert; expected an MH-MoE model")
    config = layers[0][1].config
    if config.heads == 1:
        raise ValueError(
            f"{loaded.path} has 1 sub-token per token (--mhmoe-heads-number 1): a token goes to its K = {config.top_k} "
            "choices, which are always different experts, so each token's number is the same; expected a model with 2 "
            "heads or more"
        )
    return Sizes(config.num_experts, config.heads, config.top_k, tuple(block for block, _ in layers))


def distinct_experts(experts: Tensor, num_experts: int) -> Tensor:
    """How many different experts stand in the last two dimensions (figure 7's number in one layer).

    Args:
        experts: [..., H, K] int64 expert numbers; N means: nowhere, and is not counted.
        num_experts: N.
    Returns:
        [...] int64, 0 .. min(N, H K).
    """
    flat = experts.flatten(-2)
    seen = torch.zeros(*flat.shape[:-1], num_experts + 1, dtype=torch.bool, device=flat.device)
    return seen.scatter_(-1, flat, True)[..., :num_experts].sum(-1)


def expected_uniform(num_experts: int, heads: int, top_k: int) -> float:
    """The number expected where each of H sub-tokens picks K of N experts at random: N (1 - (1 - K / N)^H)."""
    return num_experts * (1 - (1 - top_k / num_experts) ** heads)


def expected_independent(shares: np.ndarray) -> float:
    """The number expected where each head keeps its own load but knows nothing of the other heads.

    Where experts are used unevenly, tokens meet fewer of them than under uniform routing; what is below this number
    tells that sub-tokens of one token agree, what is above that they avoid each other.

    Args:
        shares: [H, N] share of the tokens of which head h goes to expert n.
    """
    return float((1 - np.prod(1 - shares, axis=0)).sum())


class Counter:
    """Sums over a text: mean number by layer, load of each head, choices that were dropped. Numbers stay on the CPU.

    `by_layer` [L, 2]: sums over tokens by all choices and by first choice. `load`, `first_load` [L, H, N]: tokens
    whose head h chose expert n, among its K choices or first.
    """

    def __init__(self, sizes: Sizes):
        self.sizes = sizes
        layers = len(sizes.blocks)
        self.tokens = 0
        self.dropped = 0
        self.by_layer = np.zeros((layers, 2))
        self.load = np.zeros((layers, sizes.heads, sizes.experts))
        self.first_load = np.zeros_like(self.load)

    def add(self, routing: Sequence[LayerRouting], valid: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Count one batch.

        Args:
            routing: of the L layers, as `evaluation.routing.route` gives them for a batch [B, T].
            valid: [B, T] False for pads and special symbols, which are left out.
        Returns:
            [tokens] of the valid ones in order: diversity by all choices and by first choice, averaged over layers.
        """
        valid = valid.to(routing[0].wanted.device)
        tokens = int(valid.sum())
        every, first = np.zeros(tokens), np.zeros(tokens)
        for layer, decided in enumerate(routing):
            wanted = decided.wanted[valid]
            self.dropped += int((wanted != decided.experts[valid]).sum())
            for column, chosen, load, into in (
                (0, wanted, self.load, every),
                (1, wanted[..., :1], self.first_load, first),
            ):
                numbers = distinct_experts(chosen, self.sizes.experts).cpu().numpy()
                into += numbers / len(routing)
                self.by_layer[layer, column] += numbers.sum()
                load[layer] += self._load(chosen)
        self.tokens += tokens
        return every, first

    def _load(self, experts: Tensor) -> np.ndarray:
        """[T, H, K] -> [H, N] tokens; nowhere is not counted."""
        heads, columns = self.sizes.heads, self.sizes.experts + 1
        places = experts + columns * torch.arange(heads, device=experts.device)[:, None]
        counts = torch.bincount(places.flatten(), minlength=heads * columns).view(heads, columns)
        return counts[:, :-1].cpu().numpy()

    def report(self) -> dict:
        """The sums as plain numbers, with what chance would give, over all layers and by layer."""
        sizes = self.sizes
        tokens = max(self.tokens, 1)
        uniform = [expected_uniform(sizes.experts, sizes.heads, k) for k in (sizes.top_k, 1)]
        layers = [
            {
                "block": block,
                "mean": self.by_layer[layer, 0] / tokens,
                "mean_first_choice": self.by_layer[layer, 1] / tokens,
                "expected_independent_heads": expected_independent(self.load[layer] / tokens),
                "expected_independent_heads_first_choice": expected_independent(self.first_load[layer] / tokens),
            }
            for layer, block in enumerate(sizes.blocks)
        ]
        means = {name: float(np.mean([layer[name] for layer in layers])) for name in layers[0] if name != "block"}
        return {
            "tokens": self.tokens,
            **means,
            "expected_uniform": uniform[0],
            "expected_uniform_first_choice": uniform[1],
            "dropped_share": self.dropped / (tokens * len(layers) * sizes.heads * sizes.top_k),
            "layers": layers,
        }
