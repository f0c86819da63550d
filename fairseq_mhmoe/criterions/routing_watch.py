"""Tells in words when experts get no choices, when one expert gets most of them, and when a router prefers none.

All is judged by the sums of the last `window` updates, never by a single batch; an episode is told when it begins and
when it ends, each once. L MoE layers, N experts.

* An expert is dead when it got no choice in a window in which an even load would have given it ENOUGH. It is back when
  it gets ALIVE of an even load. An expert with a share s of an even load is missed by chance with e^(-ENOUGH s) if
  choices are independent; if they come in clumps of c equal ones (words repeat), with about e^(-ENOUGH s / c).
* A router has collapsed when the load is that of too few experts, or when one expert takes too much. With K choices per
  sub-token, both are measured from 0 (as uneven as K different choices can be) to 1 (even), or the other way round:
  spread = (exp(entropy of the load) - K) / (N - K), taken = (share of sub-tokens that choose it - K/N) / (1 - K/N).
* A gate is uniform when its mean entropy is within UNIFORM nats of log N, for LONG windows after the warm-up. That
  difference is about half the variance of the logits, whatever N is.
"""

import logging
import math
from collections import deque

import numpy as np

ENOUGH = 1000  # choices that an even load gives each expert in a window
ALIVE = 0.01
SPREAD = 0.25, 0.33  # collapsed below the first, well above the second
TAKEN = 0.5, 0.4  # collapsed above the first, well below the second
UNIFORM = 0.001, 0.002  # nats: logits with a standard deviation of 0.045 and 0.063
LONG = 10
LISTED = 16  # experts named per layer

HELP = "see docs/troubleshooting.md"


class RoutingWatch:
    """Watches one training; `observe` gives what is to be said."""

    def __init__(self, layers, sums, update, window, warmup=0, gate_weight=0.0, z_weight=0.0):
        """
        Args:
            layers: L numbers of blocks.
            sums: [L, N + 3] statistics so far (moe/stats.py), from which the first window starts.
            update: the number of updates so far.
            window: updates of a window; it is lengthened when its batches are too small for ENOUGH.
            warmup: updates before which a uniform gate is nothing to talk about.
            gate_weight, z_weight: weights of the two losses, for the advice.
        """
        self.layers, self.window, self.warmup = list(layers), window, warmup
        self.gate_weight, self.z_weight = gate_weight, z_weight
        num_layers, num_experts = sums.shape[0], sums.shape[1] - 3
        self.history = deque([(update, sums)])
        self.next = update + self.every
        self.dead = np.zeros((num_layers, num_experts), dtype=bool)
        self.collapsed, self.uniform = (np.zeros(num_layers, dtype=bool) for _ in range(2))
        self.uniform_since = [None] * num_layers

    @property
    def every(self) -> int:
        """Updates between two looks."""
        return max(1, self.window // 10)

    def due(self, update: int) -> bool:
        """Whether `observe` wants to know of this update; a look more often is not wrong."""
        return update >= self.next

    def observe(self, update: int, sums: np.ndarray) -> list[tuple[int, str]]:
        """What is to be said after an update: (level of logging, text), mostly nothing.

        Args:
            sums: [L, N + 3] statistics since some beginning, the same at each call.
        """
        self.next = update + self.every
        self.history.append((update, sums))
        while len(self.history) > 2 and update - self.history[1][0] >= self.window:
            self.history.popleft()
        start, before = self.history[0]
        if update - start < self.window:
            return []
        seen = sums - before
        load, sub_tokens, entropy_sum = seen[:, :-3], seen[:, -3], seen[:, -1]
        num_experts = load.shape[1]
        choices = load.sum(axis=1) / np.maximum(sub_tokens, 1)  # K, or less where second choices are left to chance
        if num_experts - choices.max() < 0.5:
            return []  # every sub-token goes everywhere: there is nothing to choose
        enough = float(load.sum(axis=1).min()) / num_experts / ENOUGH
        if enough < 1:
            self.window *= 2 ** math.ceil(math.log2(1 / enough)) if enough > 0 else 2
            return []
        told = self.dead_experts(load, update - start)
        told += self.collapse(load, sub_tokens, entropy_sum, choices, update - start)
        return told + self.uniform_gates(num_experts, entropy_sum / sub_tokens, start, update)

    def dead_experts(self, load, updates):
        """Experts that died and came back."""
        even = load.sum(axis=1, keepdims=True) / load.shape[1]
        dead = np.where(load == 0, True, np.where(load >= ALIVE * even, False, self.dead))
        died, back = dead & ~self.dead, self.dead & ~dead
        self.dead = dead
        told = []
        if died.any():
            told.append(
                (
                    logging.WARNING,
                    f"experts without a single choice in the last {updates} updates, in which an even load gives each "
                    f"{even.min():.0f}: {self.places(died)}. They learn nothing. If they do not come back, "
                    f"{self.more_balance()}, or lower --lr or lengthen its warm-up; {HELP}",
                )
            )
        if back.any():
            told.append((logging.INFO, f"experts that are chosen again: {self.places(back)}"))
        return told

    def collapse(self, load, sub_tokens, entropy_sum, choices, updates):
        """Routers that collapsed and recovered."""
        num_experts = load.shape[1]
        shares = load / load.sum(axis=1, keepdims=True)
        experts_used = np.exp(-np.sum(shares * np.log(np.where(shares > 0, shares, 1)), axis=1))
        spread = (experts_used - choices) / (num_experts - choices)
        of_busiest = load.max(axis=1) / sub_tokens
        taken = (of_busiest - choices / num_experts) / (1 - choices / num_experts)
        begins = (spread < SPREAD[0]) | (taken > TAKEN[0])
        ends = (spread > SPREAD[1]) & (taken < TAKEN[1])
        collapsed = np.where(begins, True, np.where(ends, False, self.collapsed))
        new, over = collapsed & ~self.collapsed, self.collapsed & ~collapsed
        self.collapsed = collapsed
        entropy = entropy_sum / sub_tokens
        told = []
        for place in np.flatnonzero(new):
            certain = entropy[place] < 0.1 * math.log(num_experts)
            remedy = self.more_balance() + (", " + self.more_z() if certain else "")
            told.append(
                (
                    logging.WARNING,
                    f"the router of layer {self.layers[place]} has collapsed: in the last {updates} updates expert "
                    f"{load[place].argmax()} was chosen by {of_busiest[place]:.0%} of the sub-tokens "
                    f"({choices[place] / num_experts:.0%} when even), and the load was that of "
                    f"{experts_used[place]:.1f} of {num_experts} experts; gate entropy {entropy[place]:.2f} of "
                    f"{math.log(num_experts):.2f} nats. If it lasts, {remedy}, or lower --lr; {HELP}",
                )
            )
        for place in np.flatnonzero(over):
            told.append((logging.INFO, f"the router of layer {self.layers[place]} spreads its load again"))
        return told

    def uniform_gates(self, num_experts, entropy, start, update):
        """Gates that stayed uniform since an update, and those that no longer are; entropy [L], nats per sub-token."""
        told = []
        missing = math.log(num_experts) - entropy
        for place, layer in enumerate(self.layers):
            if self.uniform[place] and missing[place] > UNIFORM[1]:
                self.uniform[place] = False
                told.append((logging.INFO, f"the router of layer {layer} prefers experts now"))
            if missing[place] >= UNIFORM[0] or start < self.warmup:
                self.uniform_since[place] = None
                continue
            if self.uniform_since[place] is None:
                self.uniform_since[place] = start
            since = self.uniform_since[place]
            if not self.uniform[place] and update - since >= LONG * self.window:
                self.uniform[place] = True
                told.append(
                    (
                        logging.WARNING,
                        f"the router of layer {layer} has preferred no expert for {update - since} updates: gate "
                        f"entropy {entropy[place]:.4f} of {math.log(num_experts):.4f} nats. It has learnt next to "
                        f"nothing: {self.less_loss()}raise --lr, or try --moe-router xmoe; {HELP}",
                    )
                )
        return told

    def more_balance(self):
        """Advice about the balance loss."""
        if self.gate_weight == 0:
            return "switch the balance loss on with --moe-gate-loss-wt 0.01 (now 0)"
        return f"raise --moe-gate-loss-wt (now {self.gate_weight:g})"

    def more_z(self):
        """Advice about the z-loss."""
        if self.z_weight == 0:
            return "keep the logits small with --moe-z-loss-wt 0.001 (now 0)"
        return f"raise --moe-z-loss-wt (now {self.z_weight:g})"

    def less_loss(self):
        """Advice about losses that hold the gate even."""
        weights = (("--moe-gate-loss-wt", self.gate_weight), ("--moe-z-loss-wt", self.z_weight))
        return "".join(f"lower {option} (now {weight:g}), " for option, weight in weights if weight > 0)

    def places(self, marked):
        """'layer 1: experts 3, 5-7; layer 3: expert 0' of marks [L, N]."""
        parts = []
        for layer, row in zip(self.layers, marked, strict=True):
            numbers = np.flatnonzero(row)
            if len(numbers):
                more = f" and {len(numbers) - LISTED} more" if len(numbers) > LISTED else ""
                name = "expert" if len(numbers) == 1 else "experts"
                parts.append(f"layer {layer}: {name} {ranges(numbers[:LISTED])}{more}")
        return "; ".join(parts)


def ranges(numbers) -> str:
    """'0, 3-5' of sorted numbers."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
