"""The decoder: embeddings, blocks of attention and feed-forward network or MoE layer, output projection.

Shapes: B batch, T length, D model width, V vocabulary, N experts.
"""

import math
from typing import Any, Dict, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.models import FairseqIncrementalDecoder
from fairseq.models.transformer.transformer_base import Embedding
from fairseq.modules import PositionalEmbedding
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fairseq_mhmoe.models.attention import CausalSelfAttention, attention_mask, make_norm, rotary_tables
from fairseq_mhmoe.models.feed_forward import FeedForward
from fairseq_mhmoe.models.options import kv_heads, max_positions, moe_config, moe_group
from fairseq_mhmoe.moe import MoEConfig, MoELayer
from fairseq_mhmoe.moe.bitlinear import Quantization
from fairseq_mhmoe.moe.parallel import ExpertGroup

# What SubLN and DeepNorm scale at initialisation, as torchscale does, and SwiGLU's third matrix.
SCALED_LINEARS = ("fc1", "fc2", "fc3", "out_proj", "v_proj")


class DecoderBlock(nn.Module):
    """Attention, then feed-forward network or MoE layer; pre-norm, or post-norm with scaled residuals (DeepNorm).

    Args:
        cfg: the model's options.
        moe: configuration of the MoE layer, None for a dense block.
        group: the processes that share its experts.
        name: of the block, for messages.
    """

    def __init__(self, cfg: Any, moe: Optional[MoEConfig], group: Optional[ExpertGroup] = None, name: str = ""):
        super().__init__()
        width = cfg.decoder_embed_dim
        kind = dict(
            bias=not cfg.no_bias,
            subln=cfg.subln,
            rms_norm=cfg.rms_norm,
            quantization=Quantization.of_bits(cfg.input_bits, cfg.weight_bits),
        )
        self.pre_norm = cfg.decoder_normalize_before
        self.residual_scale = (2 * cfg.decoder_layers) ** 0.25 if cfg.deepnorm else 1.0
        self.self_attn = CausalSelfAttention(
            width, cfg.decoder_attention_heads, kv_heads(cfg), cfg.attention_dropout, **kind
        )
        self.self_attn_layer_norm = make_norm(width, cfg.rms_norm)
        if moe is None:
            activation = str(cfg.activation_fn)
            self.ffn = FeedForward(width, cfg.decoder_ffn_embed_dim, activation, cfg.activation_dropout, **kind)
        else:
            self.moe_layer = MoELayer(moe, group, f"{name}.moe_layer")
        self.is_moe = moe is not None
        self.final_layer_norm = make_norm(width, cfg.rms_norm)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(
        self,
        x: Tensor,
        rotary: Optional[Tuple[Tensor, Tensor]],
        mask: Optional[Tensor],
        pads: Tensor,
        incremental_state: Optional[Dict[str, Any]] = None,
    ) -> Tuple[Tensor, Optional[Tensor], Optional[Tensor], Optional[Tensor]]:
        """[B, T, D] -> [B, T, D], balance loss [], z-loss [] and statistics [N + 3] (None for a dense block).

        Flat tensors: activation checkpointing would cut the losses' gradients out of anything else.

        Args:
            rotary, mask: see CausalSelfAttention.
            pads: [B, T] True where a token is padding.
        """
        residual = x
        if self.pre_norm:
            x = self.self_attn_layer_norm(x)
        x = self.dropout(self.self_attn(x, rotary, mask, incremental_state))
        x = torch.add(x, residual, alpha=self.residual_scale)
        if not self.pre_norm:
            x = self.self_attn_layer_norm(x)

        residual = x
        if self.pre_norm:
            x = self.final_layer_norm(x)
        x, l_aux, z_loss, stats = self.moe_layer(x, pads) if self.is_moe else (self.ffn(x), None, None, None)
        x = torch.add(self.dropout(x), residual, alpha=self.residual_scale)
        if not self.pre_norm:
            x = self.final_layer_norm(x)
        return x, l_aux, z_loss, stats


class MoEDecoder(FairseqIncrementalDecoder):
    """Causal language model; parameters are named as in torchscale's Decoder.

    Args:
        cfg: the model's options, validated.
        dictionary: fairseq's dictionary of the input; gives size and pad index.
        output_size: V of the output, when it is not the dictionary's.
    """

    def __init__(self, cfg: Any, dictionary: Any, output_size: Optional[int] = None):
        super().__init__(dictionary)
        width = cfg.decoder_embed_dim
        moe = moe_config(cfg)
        self.pad = dictionary.pad()
        self.longest = max_positions(cfg)
        self.embed_scale = 1.0 if cfg.no_scale_embedding else math.sqrt(width)
        self.rotary_width = width // cfg.decoder_attention_heads if cfg.rotary_embed else 0
        self.checkpoint_activations = cfg.checkpoint_activations
        self.pads_are_felt = moe is not None and moe.padding != "masked"
        self.embed_tokens = Embedding(len(dictionary), width, self.pad)
        self.embed_positions = None
        if not cfg.no_token_positional_embeddings:
            self.embed_positions = PositionalEmbedding(self.longest, width, self.pad, cfg.decoder_learned_pos)
        self.layernorm_embedding = make_norm(width, cfg.rms_norm) if cfg.layernorm_embedding else None
        self.dropout = nn.Dropout(cfg.dropout)
        group = None if moe is None else moe_group(cfg)
        has_experts = [moe is not None and (i + 1) % cfg.moe_freq == 0 for i in range(cfg.decoder_layers)]
        self.layers = nn.ModuleList(
            DecoderBlock(cfg, moe if experts else None, group, f"decoder.layers.{i}")
            for i, experts in enumerate(has_experts)
        )
        self.layer_norm = make_norm(width, cfg.rms_norm) if cfg.decoder_normalize_before else None
        self.output_projection = None  # tied: the embedding itself
        if not cfg.share_decoder_input_output_embed:
            self.output_projection = nn.Linear(width, output_size or len(dictionary), bias=False)
            nn.init.normal_(self.output_projection.weight, std=width**-0.5)
        if cfg.deepnorm:
            self._scale_initial_weights((8 * cfg.decoder_layers) ** -0.25)
        if cfg.subln:
            self._scale_initial_weights(math.sqrt(math.log(2 * cfg.decoder_layers)))

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[Any] = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        features_only: bool = False,
        return_all_hiddens: bool = False,
        **unused: Any,
    ) -> Tuple[Tensor, Dict[str, Any]]:
        """Logits of the next tokens.

        Args:
            prev_output_tokens: [B, T] the text so far. While decoding always the whole text: what the cache does not
                know yet, one token or many, is processed.
            incremental_state: fairseq's dictionary, {} at the start, when decoding; None otherwise.
            features_only: leave out the output projection.
            return_all_hiddens: put the embeddings and every block's output in extra["inner_states"].
        Returns:
            logits [B, T, V] (new tokens only while decoding), and extra: lists with one entry per MoE layer "l_aux",
            "z_loss" (scalars), "moe_stats" ([N + 3]) and "moe_layers" (its index); "attn" and "inner_states".
        Raises:
            ValueError: T exceeds the model's longest sequence, or the cache holds all tokens already.
        """
        x, extra = self.extract_features(prev_output_tokens, incremental_state, return_all_hiddens)
        return (x if features_only else self.output_layer(x)), extra

    def extract_features(
        self, tokens: Tensor, incremental_state: Optional[Dict[str, Any]] = None, return_all_hiddens: bool = False
    ) -> Tuple[Tensor, Dict[str, Any]]:
        """As forward, but [B, T, D] before the output projection."""
        start = 0 if incremental_state is None else self.layers[0].self_attn.cached_length(incremental_state)
        self._check_length(tokens.shape[1], start)
        # A whole text needs no mask when its pads come last: no real token looks at a later one. So pads are moved
        # there and the result is moved back; plain causal attention is then right for left padding too, and nobody
        # has to ask the device whether there is any. Decoding masks keys, which is cheap for few queries. So do the
        # compatibility modes in which pads are routed or counted: what a pad computes matters there.
        slots = mask = None
        if incremental_state is None and not self.pads_are_felt:
            tokens, slots = pads_last(tokens, self.pad)
        pads = tokens.eq(self.pad)
        if slots is None:
            mask = attention_mask(pads, queries=tokens.shape[1] - start)
        x = self._embed(tokens, start)
        rotary = rotary_tables(start, x.shape[1], self.rotary_width, x.device) if self.rotary_width else None
        inner_states = [x] if return_all_hiddens else None
        extra: Dict[str, Any] = {"attn": [None], "l_aux": [], "z_loss": [], "moe_stats": [], "moe_layers": []}
        for i, block in enumerate(self.layers):
            x, *reports = self._run(block, x, rotary, mask, pads[:, start:], incremental_state)
            if return_all_hiddens:
                inner_states.append(x)
            if block.is_moe:
                extra["moe_layers"].append(i)
                for name, report in zip(("l_aux", "z_loss", "moe_stats"), reports):
                    extra[name].append(report)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        if slots is not None:
            x = take_slots(x, slots)
            inner_states = [take_slots(state, slots) for state in inner_states] if return_all_hiddens else None
        extra["inner_states"] = inner_states
        return x, extra

    def output_layer(self, features: Tensor, **unused: Any) -> Tensor:
        """[B, T, D] -> [B, T, V]."""
        return F.linear(features, self.output_weight)

    @property
    def output_weight(self) -> Tensor:
        """[V, D]: all that the output layer is."""
        return (self.embed_tokens if self.output_projection is None else self.output_projection).weight

    def max_positions(self) -> int:
        """Longest sequence, in tokens."""
        return self.longest

    def _embed(self, tokens: Tensor, start: int) -> Tensor:
        """[B, T] -> [B, T - start, D]. Positions count real tokens only, so they need the whole text."""
        x = self.embed_scale * self.embed_tokens(tokens[:, start:])
        if self.embed_positions is not None:
            x = x + self.embed_positions(tokens)[:, start:]
        if self.layernorm_embedding is not None:
            x = self.layernorm_embedding(x)
        return self.dropout(x)

    def _run(self, block: DecoderBlock, *args: Any) -> Tuple[Optional[Tensor], ...]:
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)

    def _check_length(self, length: int, start: int) -> None:
        if length > self.longest:
            raise ValueError(
                f"sequence of {length} tokens: this model takes at most {self.longest}; split the text, or train with "
                "a larger --max-target-positions (default: --tokens-per-sample)"
            )
        if start and start >= length:
            raise ValueError(
                f"{length} tokens given while decoding, but {start} are decoded already; pass the whole text so far, "
                "or an empty incremental_state for a new one"
            )

    @torch.no_grad()
    def _scale_initial_weights(self, factor: float) -> None:
        for name, module in self.layers.named_modules():
            if isinstance(module, MoELayer):
                module.scale_expert_weights(factor)
            elif name.rsplit(".", 1)[-1] in SCALED_LINEARS:
                for parameter in module.parameters():
                    parameter.mul_(factor)


def pads_last(tokens: Tensor, pad: int) -> Tuple[Tensor, Tensor]:
    """Move the pads of each row behind its text.

    Args:
        tokens: [B, T].
    Returns:
        the moved tokens [B, T], and where each token went, [B, T], for `take_slots`.
    """
    order = tokens.eq(pad).int().argsort(dim=1, stable=True)
    return tokens.gather(1, order), order.argsort(dim=1)


def take_slots(x: Tensor, slots: Tensor) -> Tensor:
    """Put [B, T, D] back into the order that tokens had before `pads_last`."""
    return x.gather(1, slots.unsqueeze(-1).expand_as(x))
