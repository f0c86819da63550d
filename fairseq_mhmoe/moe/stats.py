"""What a layer reports of one forward pass: sums in one flat tensor, so that batches, steps and ranks can be added."""

import math
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from .selection import Selection

SCALARS = ("sub_tokens", "dropped", "entropy_sum")


def pack(selection: Selection, counts: Tensor, load: Tensor, valid: Optional[Tensor]) -> Tensor:
    """Flat float32 statistics [N + 3]: load per expert, then SCALARS. No gradient, no host synchronisation.

    Args:
        selection: where the sub-tokens went.
        counts: [N] choices that experts got.
        load: [N] choices that experts were wanted for, before capacity dropped any.
        valid: [S] False for pads; None when all count.
    """
    # -sum p log p = log sum exp(l) - sum p l, with no logarithm of [S, N] numbers
    probs, logits, log_sums = (t.detach() for t in (selection.probs, selection.logits, selection.log_sums))
    if valid is None:
        sub_tokens = probs.new_full((), probs.shape[0])
        entropy_sum = log_sums.sum() - torch.dot(probs.flatten(), logits.flatten())
    else:
        weight = valid.to(probs.dtype)
        sub_tokens = weight.sum()
        entropy_sum = torch.dot(log_sums - torch.linalg.vecdot(probs, logits), weight)
    dropped = (load - counts).sum()
    return torch.cat([load.float(), torch.stack([sub_tokens.float(), dropped.float(), entropy_sum.float()])])


@dataclass(frozen=True)
class LayerStats:
    """Readable statistics of one MoE layer; every figure a sum over what was seen."""

    load: Tensor  # [N] choices per expert before dropping
    sub_tokens: float  # routed sub-tokens, pads left out unless they are routed
    dropped: float  # choices lost to capacity
    entropy_sum: float  # nats, summed over sub-tokens

    @property
    def dropped_share(self) -> float:
        """Dropped choices / choices."""
        return self.dropped / max(float(self.load.sum()), 1.0)

    @property
    def entropy(self) -> float:
        """Mean entropy of the gate per sub-token, nats (log N when uniform)."""
        return self.entropy_sum / max(self.sub_tokens, 1.0)

    @property
    def load_max(self) -> float:
        """Load of the busiest expert over the mean load; 1 when even."""
        return float(self.load.max() / self.load.mean().clamp(min=1e-9))

    @property
    def load_entropy(self) -> float:
        """Entropy of the load over log N: 1 when even, 0 when one expert gets all; 0 without any choice."""
        if self.load.numel() == 1:
            return float(self.load.sum() > 0)
        shares = self.load / self.load.sum().clamp(min=1e-9)
        return float(torch.special.entr(shares).sum()) / math.log(self.load.numel())

    @property
    def load_variation(self) -> float:
        """Coefficient of variation of the load: standard deviation over N experts / mean; 0 when even."""
        return float(self.load.std(correction=0) / self.load.mean().clamp(min=1e-9))

    @property
    def dead_share(self) -> float:
        """Share of experts without a single choice."""
        return float((self.load == 0).double().mean())

    def selection_frequency(self, heads: int = 1) -> Tensor:
        """[N] selections of each expert per sub-token, or per token when `heads` sub-tokens make one."""
        # one rounding, as in the uniform threshold: an expert exactly at the threshold is not above it
        return self.load * heads / max(self.sub_tokens, 1.0)

    def activated(self, threshold: float, heads: int = 1) -> float:
        """Share of experts whose selection frequency passes the threshold (MH-MoE v1 figure 1)."""
        return float((self.selection_frequency(heads) > threshold).double().mean())


def unpack(stats: Tensor) -> LayerStats:
    """Read a (summed) statistics tensor [N + 3]; copies it to the host."""
    values = stats.detach().double().cpu()
    load, scalars = values[: -len(SCALARS)], values[-len(SCALARS) :].tolist()
    return LayerStats(load, **dict(zip(SCALARS, scalars)))


def uniform_threshold(top_k: int, num_experts: int) -> float:
    """Half of the selection frequency that every expert has under an even load, K / (2 N)."""
    return top_k / (2 * num_experts)
