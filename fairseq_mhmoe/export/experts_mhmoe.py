"""The MoE layer: router, selection with capacity, experts one after the other.

B batch, T length, D width, H sub-tokens of a token, d = D / H, S = B * T * H sub-tokens, N experts, K choices of a
sub-token, M rows of one expert.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .layers_mhmoe import ACTIVATIONS, Linear, quantize_matrix, quantize_rows


class Router(nn.Module):
    """Logits [S, N] of sub-tokens [S, d], in float32 whatever the model's precision."""

    def __init__(self, config):
        super().__init__()
        self.kind, width = config.moe_router, config.hidden_size // config.moe_heads
        if self.kind == "softmax":
            self.weight = nn.Parameter(torch.empty(config.num_experts, width))
            return
        self.projection = nn.Linear(width, config.moe_router_dim, bias=False)
        self.embedding = nn.Parameter(torch.empty(config.num_experts, config.moe_router_dim))
        if self.kind == "xmoe":
            self.log_temperature = nn.Parameter(torch.empty(()))

    def forward(self, x):
        """[S, d] -> [S, N]."""
        with torch.autocast(x.device.type, enabled=False):
            if self.kind == "softmax":
                return x.float() @ self.weight.float().t()
            projected, embedding = x.float() @ self.projection.weight.float().t(), self.embedding.float()
            if self.kind == "xmoe":
                cosine = F.normalize(projected, dim=1) @ F.normalize(embedding, dim=1).t()
                return cosine * torch.exp(-self.log_temperature.float())
            embedding = embedding * (1.5 / embedding.norm(dim=1, keepdim=True))
            return projected @ F.normalize(embedding, dim=1, eps=1e-4).t()


class Experts(nn.Module):
    """N feed-forward networks, stacked; SwiGLU's gate and up matrices lie above each other, gate first."""

    def __init__(self, config, count, width, inner):
        super().__init__()
        self.config = config
        rows = 2 * inner if config.hidden_act == "silu" else inner
        self.w_in = nn.Parameter(torch.empty(count, rows, width))
        self.w_out = nn.Parameter(torch.empty(count, width, inner))
        self.b_in = nn.Parameter(torch.empty(count, rows)) if config.use_bias else None
        self.b_out = nn.Parameter(torch.empty(count, width)) if config.use_bias else None
        self.norm_weight = nn.Parameter(torch.empty(count, inner)) if config.subln else None
        self.norm_bias = nn.Parameter(torch.empty(count, inner)) if config.subln and not config.rms_norm else None

    def forward(self, x, expert):
        """The rows [M, d] of one expert."""
        own = (self.w_in, self.w_out, self.b_in, self.b_out, self.norm_weight, self.norm_bias)
        w_in, w_out, b_in, b_out, norm, norm_bias = (None if p is None else p[expert] for p in own)
        gated, bits = self.config.hidden_act == "silu", (self.config.input_bits, self.config.weight_bits)
        if bits[1] == 1:
            w_in, w_out = quantize_matrix(w_in, parts=2 if gated else 1), quantize_matrix(w_out)
        hidden = F.linear(quantize_rows(x) if bits[0] == 8 else x, w_in, b_in)
        if gated:
            gate, up = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * up
        else:
            hidden = ACTIVATIONS[self.config.hidden_act](hidden)
        if norm is not None and self.config.rms_norm:
            hidden = F.rms_norm(hidden, hidden.shape[-1:], norm, eps=1e-5)
        elif norm is not None:
            hidden = F.layer_norm(hidden, hidden.shape[-1:], norm, norm_bias, eps=1e-5)
        return F.linear(quantize_rows(hidden) if bits[0] == 8 else hidden, w_out, b_out)


class MoELayer(nn.Module):
    """Head layers, split, route, experts, merge layers (MH-MoE); with one sub-token a token: sparse MoE, X-MoE."""

    def __init__(self, config):
        super().__init__()
        self.config, width = config, config.hidden_size

        def projections(count):
            quantized = config.moe_quantize_projections
            return nn.ModuleList(Linear(config, width, width, True, quantized) for _ in range(count))

        self.head, self.merge = projections(config.moe_head_layers), projections(config.moe_merge_layers)
        self.router = Router(config)
        self.experts = Experts(config, config.num_experts, width // config.moe_heads, config.moe_intermediate_size)
        shared = config.shared_expert_intermediate_size
        self.shared = Experts(config, 1, width, shared) if shared else None

    def forward(self, x, real):
        """[B, T, D], real [B, T] False where a token is padding -> [B, T, D]."""
        sub = project(x, self.head).reshape(-1, x.shape[-1] // self.config.moe_heads)
        valid = None if self.config.moe_padding == "routed" else real.repeat_interleave(self.config.moe_heads)
        chosen, gates = self.select(self.router(sub), valid)
        rows = sub.new_zeros(chosen.numel(), sub.shape[1])
        for expert in chosen.unique().tolist():
            if expert < self.config.num_experts:
                where = (chosen.flatten() == expert).nonzero().squeeze(1)
                inputs = sub[where.div(chosen.shape[1], rounding_mode="floor")]
                rows.index_copy_(0, where, self.experts(inputs, expert).to(rows.dtype))
        out = (rows.view(*chosen.shape, -1) * gates.to(rows.dtype).unsqueeze(-1)).sum(1)
        if self.config.moe_residual:
            out = out + sub
        y = project(out.reshape(x.shape), self.merge)
        return y if self.shared is None else y + self.shared(x.flatten(0, 1), 0).view_as(x)

    def select(self, logits, valid):
        """Logits [S, N] and valid [S], None for all -> experts [S, K], N for nowhere, and gates [S, K]."""
        c = self.config
        probs = logits.softmax(dim=1)
        gates, chosen = probs.topk(c.num_experts_per_tok, dim=1)
        if c.moe_normalize_gates == "before":
            gates = normalize(gates)
        if valid is not None:
            chosen = chosen.masked_fill(~valid.unsqueeze(1), c.num_experts)
        capacity = self.capacity(logits.shape[0] if valid is None or c.moe_padding == "counted" else int(valid.sum()))
        if capacity is not None:
            priority = probs.amax(1) if c.moe_batch_prioritized else None
            chosen = chosen.masked_fill(places_in_queues(chosen, priority) >= capacity, c.num_experts)
        gates = gates * (chosen < c.num_experts)
        return chosen, normalize(gates) if c.moe_normalize_gates == "after" else gates

    def capacity(self, tokens):
        """Choices that an expert takes in evaluation; None for all."""
        c = self.config
        if c.moe_eval_capacity_fraction > 0:
            return math.ceil(c.moe_eval_capacity_fraction * tokens)
        if c.moe_capacity_factor == 0:
            return None
        return c.num_experts_per_tok * math.floor(c.moe_capacity_factor * math.ceil(tokens / c.num_experts))


def project(x, layers):
    """[..., D] through linear layers with ReLU between them."""
    for i, linear in enumerate(layers):
        x = linear(F.relu(x) if i else x)
    return x


def normalize(gates):
    """[S, K] divided by the sum over K; a single gate stays as it is."""
    return gates if gates.shape[1] == 1 else gates / gates.sum(1, keepdim=True).clamp(min=torch.finfo(gates.dtype).eps)


def places_in_queues(chosen, priority):
    """[S, K] place of each choice in its expert's queue: all first choices by token (or priority [S]), then seconds."""
    tokens, top_k = chosen.shape
    order = torch.arange(tokens, device=chosen.device)
    if priority is not None:
        order = priority.argsort(descending=True, stable=True)
    queued, by_expert = chosen[order].t().flatten().sort(stable=True)
    place = torch.arange(queued.numel(), device=chosen.device) - torch.searchsorted(queued, queued)
    places = torch.empty_like(place).scatter_(0, by_expert, place).view(top_k, tokens).t()
    return torch.empty_like(places).index_copy_(0, order, places)
