"""Layers of MH-MoE language models outside the experts: BitNet's linear layer, norms, positions, attention, networks.

B batch, T new tokens, C tokens in the cache, D width, A attention heads.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}
SMALLEST_SCALE = 1e-5


class StraightThrough(torch.autograd.Function):
    """A rounded tensor in the place of the tensor that it was made of, whose gradient passes unchanged."""

    @staticmethod
    def forward(ctx, original, rounded):
        return rounded

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def quantize_rows(x):
    """BitNet b1.58, 8 bits: each row [..., d] in multiples of max|x| / 127."""
    wide = torch.promote_types(x.dtype, torch.float32)
    step = x.detach().abs().amax(-1, keepdim=True).to(wide).clamp(min=SMALLEST_SCALE) / 127
    return StraightThrough.apply(x, ((x.detach().to(wide) / step).round() * step).to(x.dtype))


def quantize_matrix(weight, parts=1):
    """BitNet b1.58, ternary: -1, 0 or 1 times mean|W|, for each of the `parts` matrices that lie in [out, in]."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    matrices = weight.detach().unflatten(0, (parts, -1))
    scale = matrices.abs().mean((-2, -1), keepdim=True, dtype=wide).clamp(min=SMALLEST_SCALE)
    rounded = ((matrices / scale).round().clamp(-1, 1) * scale).to(weight.dtype).flatten(0, 1)
    return StraightThrough.apply(weight, rounded)


class Linear(nn.Linear):
    """A linear layer, BitNet's where the configuration says so."""

    def __init__(self, config, inputs, outputs, bias, quantized=True):
        super().__init__(inputs, outputs, bias=bias)
        self.quantize_input = quantized and config.input_bits == 8
        self.quantize_weight = quantized and config.weight_bits == 1

    def forward(self, x):
        """[..., in] -> [..., out]."""
        x = quantize_rows(x) if self.quantize_input else x
        return F.linear(x, quantize_matrix(self.weight) if self.quantize_weight else self.weight, self.bias)


def make_norm(config, width):
    """RMSNorm or LayerNorm."""
    return nn.RMSNorm(width, eps=1e-5) if config.rms_norm else nn.LayerNorm(width, eps=1e-5)


def rotate(x, positions):
    """Turn the pairs (i, i + width/2) of [B, A, T, width] by the angles of positions [T], in float32."""
    width = x.shape[-1]
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32, device=x.device) / width)
    angles = torch.outer(positions.float(), frequencies)
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).type_as(x)


def sinusoids(positions, width, padding):
    """fairseq's table at positions [B, T], zero for the position `padding`: [B, T, D]."""
    half = width // 2
    step = torch.arange(half, dtype=torch.float, device=positions.device) * -(math.log(10000) / (half - 1))
    angles = positions.float().unsqueeze(-1) * step.exp()
    table = F.pad(torch.cat([angles.sin(), angles.cos()], dim=-1), (0, width % 2))
    return table.masked_fill((positions == padding).unsqueeze(-1), 0)


def who_may_look(real, queries):
    """[B, C + T] real tokens -> [B, 1, T, C + T] True = may look: at earlier real ones; at itself if there are none."""
    keys = real.shape[1]
    causal = torch.ones(queries, keys, dtype=torch.bool, device=real.device).tril(keys - queries)
    allowed = causal & real[:, None, None, :]
    itself = causal & causal.triu(keys - queries)
    return allowed | (itself & ~allowed.any(-1, keepdim=True))


class Attention(nn.Module):
    """Causal self-attention with grouped key/value heads."""

    def __init__(self, config, layer):
        super().__init__()
        width, bias = config.hidden_size, config.use_bias
        self.layer, self.rotary, self.heads = layer, config.rotary, config.num_attention_heads
        self.head_width, self.kv_heads = width // self.heads, config.num_key_value_heads
        self.k_proj = Linear(config, width, self.kv_heads * self.head_width, bias)
        self.v_proj = Linear(config, width, self.kv_heads * self.head_width, bias)
        self.q_proj = Linear(config, width, width, bias)
        self.out_proj = Linear(config, width, width, bias)
        self.inner_attn_ln = make_norm(config, width) if config.subln else None

    def forward(self, x, positions, mask, cache, total):
        """[B, T, D] -> [B, T, D].

        Args:
            positions: [T] places of the new tokens.
            mask: [B, 1, T, C + T] True = may look; None: all are real, and nothing is in the cache, or T is 1.
            cache: transformers' Cache, which gets the new keys and values; None for none. total: C + T.
        """
        q, k, v = (
            proj(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.rotary:
            q, k = rotate(q, positions), rotate(k, positions)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
            k, v = k[:, :, :total], v[:, :, :total]  # a static cache has room behind what it holds
        if self.kv_heads < self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        causal = mask is None and q.shape[2] > 1
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal).transpose(1, 2).flatten(2)
        return self.out_proj(y if self.inner_attn_ln is None else self.inner_attn_ln(y))


class FeedForward(nn.Module):
    """fc2(act(fc1 x)), or SwiGLU: fc2(fc1 x * silu(fc3 x))."""

    def __init__(self, config):
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.use_bias
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1, self.fc2 = Linear(config, width, inner, bias), Linear(config, inner, width, bias)
        self.fc3 = Linear(config, width, inner, bias) if config.hidden_act == "silu" else None
        self.ffn_layernorm = make_norm(config, inner) if config.subln else None

    def forward(self, x):
        """[..., D] -> [..., D]."""
        hidden = self.activation(self.fc1(x)) if self.fc3 is None else self.fc1(x) * self.activation(self.fc3(x))
        return self.fc2(hidden if self.ffn_layernorm is None else self.ffn_layernorm(hidden))
