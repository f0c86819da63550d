"""Causal self-attention with grouped key/value heads, rotary positions and a key/value cache.

Shapes: B batch, T length (Tq queries, Tk keys), D model width, A attention heads, C width of one attention head.
"""

from typing import Any, Dict, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.incremental_decoding_utils import with_incremental_state
from torch import Tensor, nn

from fairseq_mhmoe.moe.bitlinear import UNQUANTIZED, Quantization

ROTARY_BASE = 10000.0
FIRST_CACHE_LENGTH = 64


def make_norm(width: int, rms_norm: bool) -> nn.Module:
    """RMSNorm or LayerNorm over the last dimension, eps 1e-5."""
    return nn.RMSNorm(width, eps=1e-5) if rms_norm else nn.LayerNorm(width, eps=1e-5)


def attention_mask(pads: Tensor, queries: int) -> Tensor:
    """Who may look at whom: earlier real keys. A query without any looks at itself, so that its softmax is defined.

    Args:
        pads: [B, Tk] True where the key is padding.
        queries: Tq; the queries are the last Tq positions of the Tk.
    Returns:
        [B, 1, Tq, Tk] True = may look.
    """
    keys = pads.shape[1]
    offset = keys - queries
    causal = torch.ones(queries, keys, dtype=torch.bool, device=pads.device).tril(offset)
    allowed = causal & ~pads[:, None, None, :]
    itself = causal & causal.triu(offset)
    return allowed | (itself & ~allowed.any(dim=-1, keepdim=True))


def rotary_tables(start: int, length: int, head_width: int, device: torch.device) -> Tuple[Tensor, Tensor]:
    """Cosines and sines [T, C/2] of the positions start .. start + T - 1, in float32 whatever the model's precision."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, head_width, 2, dtype=torch.float32, device=device) / head_width)
    positions = torch.arange(start, start + length, dtype=torch.float32, device=device)
    angles = torch.outer(positions, frequencies)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, tables: Tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (i, i + C/2) of [B, A, T, C] by their position's angles."""
    cos, sin = tables
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).type_as(x)


class KeyValueCache:
    """Keys and values of the tokens decoded so far, in a buffer that doubles when it is full."""

    def __init__(self) -> None:
        self.length = 0
        self.buffer: Optional[Tensor] = None  # [2, B, A, capacity, C]

    def append(self, keys: Tensor, values: Tensor) -> Tuple[Tensor, Tensor]:
        """Store [B, A, new, C] each and return all keys and values so far, [B, A, length, C] each."""
        end = self.length + keys.shape[2]
        if self.buffer is None or end > self.buffer.shape[3]:
            self._grow(keys, end)
        self.buffer[0, :, :, self.length : end] = keys.detach()
        self.buffer[1, :, :, self.length : end] = values.detach()
        self.length = end
        return self.buffer[0, :, :, :end], self.buffer[1, :, :, :end]

    def reorder(self, order: Tensor) -> None:
        """Keep the batch rows `order` [B'], in that order; a row may be kept several times."""
        self.buffer = self.buffer.index_select(1, order)

    def _grow(self, like: Tensor, needed: int) -> None:
        batch, heads, _, width = like.shape
        old = self.buffer
        capacity = max(needed, FIRST_CACHE_LENGTH if old is None else 2 * old.shape[3])
        self.buffer = like.new_empty(2, batch, heads, capacity, width)
        if old is not None:
            self.buffer[:, :, :, : self.length] = old[:, :, :, : self.length]


@with_incremental_state
class CausalSelfAttention(nn.Module):
    """Multi-head self-attention; parameters are named as in torchscale.

    Args:
        width: D.
        heads: A query heads.
        kv_heads: key/value heads, a divisor of A; each serves A / kv_heads query heads.
        dropout: on the attention weights, in training.
        bias: of the four projections.
        subln: norm before the output projection (SubLN).
        rms_norm: kind of that norm.
        quantization: of the four projections.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        subln: bool = False,
        rms_norm: bool = False,
        quantization: Quantization = UNQUANTIZED,
    ):
        super().__init__()
        self.heads = heads
        self.kv_heads = kv_heads
        self.head_width = width // heads
        self.dropout = dropout
        self.quantization = quantization
        self.k_proj = quantization.linear(width, kv_heads * self.head_width, bias=bias)
        self.v_proj = quantization.linear(width, kv_heads * self.head_width, bias=bias)
        self.q_proj = quantization.linear(width, width, bias=bias)
        self.out_proj = quantization.linear(width, width, bias=bias)
        self.inner_attn_ln = make_norm(width, rms_norm) if subln else None

    def forward(
        self,
        x: Tensor,
        rotary: Optional[Tuple[Tensor, Tensor]] = None,
        mask: Optional[Tensor] = None,
        incremental_state: Optional[Dict[str, Any]] = None,
    ) -> Tensor:
        """[B, Tq, D] -> [B, Tq, D].

        Args:
            rotary: tables of the queries' positions, or None for no rotary positions.
            mask: [B, 1, Tq, Tk] True = may look; None = plain causal, for whole sequences without a cache.
            incremental_state: fairseq's dictionary while decoding; holds the cache. x is then the new tokens only.
        """
        batch, length, width = x.shape
        x = self.quantization.enter(x)
        q = self._split_heads(self.q_proj(x), self.heads)
        k = self._split_heads(self.k_proj(x), self.kv_heads)
        v = self._split_heads(self.v_proj(x), self.kv_heads)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        if incremental_state is not None:
            k, v = self._cache(incremental_state).append(k, v)
        if self.kv_heads < self.heads:  # not enable_gqa: the kernels that take a mask or run on a V100 lack it
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None)
        y = y.transpose(1, 2).reshape(batch, length, width)
        if self.inner_attn_ln is not None:
            y = self.inner_attn_ln(y)
        return self.out_proj(self.quantization.enter(y))

    def cached_length(self, incremental_state: Dict[str, Any]) -> int:
        """Tokens that the cache holds."""
        return self._cache(incremental_state).length

    def reorder_incremental_state(self, incremental_state: Dict[str, Any], new_order: Tensor) -> None:
        """Follow the beams; called by fairseq's sequence generator on every module that has this method."""
        cache = self._cache(incremental_state)
        if cache.buffer is not None:
            cache.reorder(new_order)

    def _cache(self, incremental_state: Dict[str, Any]) -> KeyValueCache:
        cache = self.get_incremental_state(incremental_state, "cache")
        if cache is None:
            cache = KeyValueCache()
            self.set_incremental_state(incremental_state, "cache", cache)
        return cache

    def _split_heads(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.head_width)).transpose(1, 2)
