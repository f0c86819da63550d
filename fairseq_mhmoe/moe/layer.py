"""The MH-MoE layer.

B batch, T length, D model width, H heads, d = D / H, S = B * T * H sub-tokens, N experts, K choices, P ranks that share
the experts.
"""

import math
from typing import Any, Callable, Dict, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import stats as layer_stats
from .bitlinear import UNQUANTIZED, Quantization
from .config import MoEConfig
from .dispatch import Plan, combine, count_experts, dispatch, make_plan
from .exchange import run_by_capacity, run_by_counts, sum_over_ranks
from .expert_ffn import Source
from .experts import StackedExperts
from .losses import load_balancing_loss, router_z_loss
from .parallel import ExpertGroup
from .precision import autocast_dtype
from .router import build_router
from .selection import Selection, capacity_bound, select_experts


class MoELayer(nn.Module):
    """Multi-head mixture of experts: head layer, split, route, dispatch, experts, combine, merge (MH-MoE v1 eq. 1-8).

    One class for all: H = 1 without head and merge layers is sparse MoE, with a cosine router X-MoE.

    Args:
        config: sizes and rules.
        group: the ranks that share the experts, this one among them; None when they are all here. The names of
            parameters and their initial values are the same for every P; the expert stacks hold N / P experts.
        name: of the layer, for messages.
    Raises:
        ValueError: P does not divide N.
    """

    def __init__(self, config: MoEConfig, group: Optional[ExpertGroup] = None, name: str = "") -> None:
        super().__init__()
        self.config, self.group, self.name = config, group or ExpertGroup(), name
        if config.num_experts % self.group.size:
            raise ValueError(f"{config.num_experts} experts can't be spread evenly over {self.group.size} ranks")
        width = config.d_model
        linear = config.projection_quantization.linear
        self.head = nn.ModuleList(linear(width, width) for _ in range(config.num_head_layers))
        self.router = build_router(config)
        self.experts = self._build_experts(*self.group.slice(config.num_experts), config.d_sub, config.ffn_dim)
        self._mark_experts()
        self.merge = nn.ModuleList(linear(width, width) for _ in range(config.num_merge_layers))
        self.shared = self._build_experts(0, 1, width, config.shared_expert_dim) if config.shared_expert_dim else None
        # Told each forward pass's selection and valid sub-tokens ([S], None: all); for analysis, see `evaluation`.
        self.observer: Optional[Callable[[Selection, Optional[Tensor]], None]] = None
        self.reset_parameters()

    def _mark_experts(self) -> None:
        """Tells parameters of which other ranks hold other experts apart from those that are everywhere the same."""
        for parameter in self.experts.parameters() if self.group.size > 1 else ():
            parameter.expert = True  # type: ignore[attr-defined]  # a mark that fairseq looks for

    def __setstate__(self, state: Dict[str, Any]) -> None:
        """A deep copy is a layer of the same group; torch copies parameters without their marks."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's
        self._mark_experts()

    def _build_experts(self, first: int, end: int, d: int, ffn_dim: int) -> StackedExperts:
        c = self.config
        return StackedExperts(
            end - first,
            d,
            ffn_dim,
            c.activation,
            c.bias,
            c.subln,
            c.rms_norm,
            c.activation_dropout,
            c.backend,
            c.recompute,
            c.fused_activation,
            first,
            c.quantization,
        )

    def reset_parameters(self) -> None:
        """Head: Xavier uniform, gain 1/sqrt(2); merge: Xavier uniform, bias 0 (MH-MoE v1); the rest as nn.Linear."""
        for linear in self.head:
            assert isinstance(linear, nn.Linear)
            linear.reset_parameters()
            nn.init.xavier_uniform_(linear.weight, gain=1 / math.sqrt(2))
        for linear in self.merge:
            assert isinstance(linear, nn.Linear)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.router.reset_parameters()
        self.experts.reset_parameters()
        if self.shared is not None:
            self.shared.reset_parameters()

    def scale_expert_weights(self, factor: float) -> None:
        """Multiply the experts' matrices and biases, as SubLN and DeepNorm scale a dense FFN's at initialisation."""
        self.experts.scale_weights(factor)
        if self.shared is not None:
            self.shared.scale_weights(factor)

    def forward(
        self, x: Tensor, padding_mask: Optional[Tensor] = None, noise: Optional[Tensor] = None
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        """Apply the layer.

        Args:
            x: [B, T, D].
            padding_mask: [B, T] True where a token is padding; None when none is.
            noise: random numbers for the second-expert policy instead of fresh ones, see `select_experts`.
        Returns:
            y [B, T, D], balance loss [] and router z-loss [] in float32, statistics [N + 3] (see `stats`). Flat
            tensors, since activation checkpointing would cut the losses' gradient out of anything else.
        """
        quantization = self.config.projection_quantization
        sub = split_heads(project(x, self.head, quantization), self.config.heads)
        sub = sub.to(autocast_dtype(x.device.type) or sub.dtype)
        valid = self.valid_sub_tokens(padding_mask)
        logits = self.router(sub)
        selection = select_experts(logits, self.config, self.training, valid, noise, self.group.size)
        if self.observer is not None:
            self.observer(selection, valid)
        out, statistics = self._run_experts(sub, selection, valid)
        y = project(merge_heads(out, x.shape), self.merge, quantization)
        if self.shared is not None:
            y = y + run_shared(self.shared, x)
        over_ranks = self.config.balance_scope == "global" and self.group.world_size > 1
        total = sum_over_ranks if over_ranks else None
        l_aux = load_balancing_loss(
            selection.probs, selection.choices[:, 0], valid, self.config.padding == "counted", total
        )
        return y, l_aux, router_z_loss(selection.log_sums, valid, total), statistics

    def valid_sub_tokens(self, padding_mask: Optional[Tensor]) -> Optional[Tensor]:
        """[B, T] mask of pads -> [S] True for real sub-tokens; each inherits its token's mask."""
        if padding_mask is None or self.config.padding == "routed":
            return None
        valid = ~padding_mask.reshape(-1, 1).bool()
        return valid.expand(-1, self.config.heads).reshape(-1)

    def _run_experts(self, sub: Tensor, selection: Selection, valid: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
        """[S, d] -> [S, d] and the statistics."""
        num_experts = self.config.num_experts
        plan = make_plan(selection.experts, num_experts, complete=selection.experts is selection.choices)
        out = combine(self._experts_of_all_ranks(sub, plan), selection.gates, plan)
        if self.config.residual:
            out = out + sub
        dropless = selection.experts is selection.wanted
        load = plan.counts if dropless else count_experts(selection.wanted, num_experts)
        return out, layer_stats.pack(selection, plan.counts, load, valid)

    def _experts_of_all_ranks(self, sub: Tensor, plan: Plan) -> Tensor:
        """[S, d] -> [S*K, d], each sub-token through its K experts, sorted by expert, wherever the expert lives."""
        most = capacity_bound(self.config, self.training, sub.shape[0])
        if self.group.size == 1:
            source = Source(plan.order, plan.inverse)
            rows: Tensor = self.experts(sub, plan.counts, plan.complete, source=source, most=most)
            return rows
        rows = dispatch(sub, plan)
        where = (self.experts, self.group, self.name)
        if self.config.exchange == "capacity":
            assert most is not None  # the configuration asks for a capacity then
            return run_by_capacity(rows, plan, most, *where)
        return run_by_counts(rows, plan, *where)


def run_shared(expert: StackedExperts, x: Tensor) -> Tensor:
    """The expert that every token passes: [B, T, D] -> [B, T, D]."""
    rows = x.reshape(-1, x.shape[-1])
    counts = torch.full((1,), rows.shape[0], dtype=torch.int64, device=x.device)
    out: Tensor = expert(rows, counts)
    return out.view_as(x)


def project(x: Tensor, layers: nn.ModuleList, quantization: Quantization = UNQUANTIZED) -> Tensor:
    """[..., D] -> [..., D] through linear layers with ReLU between them (MH-MoE v1, ablation of the MLP's depth)."""
    for i, linear in enumerate(layers):
        x = linear(quantization.enter(x if i == 0 else F.relu(x)))
    return x


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, D] -> [S, d]: sub-token j of token i is row i * H + j (MH-MoE v1 eq. 2)."""
    return x.reshape(-1, x.shape[-1] // heads)


def merge_heads(out: Tensor, shape: torch.Size) -> Tensor:
    """[S, d] -> [B, T, D], the inverse of `split_heads` (MH-MoE v1 eq. 7)."""
    return out.reshape(shape)
