"""One block of the multimodal encoder: torchscale's, over all streams of a step, with scaled_dot_product_attention and,
in the place of feed-forward networks, an MoE layer.

Parameters keep torchscale's names (self_attn.k_proj.A.weight, ...; A is for images, B for text). What is a stream's own
comes with every call and is never kept in a module.
Shapes: B rows, P patches, T text tokens, L = 1 + P + T length (a part may be absent), D width, R all tokens of a step.
"""

from typing import Any, Callable, List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchscale.architecture.encoder import EncoderLayer
from torchscale.component.multihead_attention import MultiheadAttention
from torchscale.component.multiway_network import MultiwayNetwork

from fairseq_mhmoe.models.multimodal_options import MODALITIES
from fairseq_mhmoe.moe import MoELayer

SIDES = dict(zip(MODALITIES, "AB"))


class Layout(NamedTuple):
    """What a stream's tokens are."""

    image: int  # tokens of a row that are an image's: 1 + P, or 0; the rest is text
    length: int  # L
    pads: Optional[Tensor]  # [B, L] True where a token is padding; None: there is none
    allowed: Optional[Tensor]  # [B, 1, 1 or L, L] True where a query may look at a key; None: everywhere
    unrouted: Optional[Tensor]  # [B, L] True where a token is not for experts: pads, or all of a blank stream


def multiway(network: MultiwayNetwork, x: Tensor, image: int) -> Tensor:
    """[B, L, ...] through A for the first `image` tokens of each row, and B for the others."""
    if image == 0:
        return network.B(x)
    if image == x.shape[1]:
        return network.A(x)
    return torch.cat((network.A(x[:, :image]), network.B(x[:, image:])), dim=1)


class MultiwayAttention(MultiheadAttention):
    """torchscale's attention by scaled_dot_product_attention, which need not hold a weight for each pair of tokens."""

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        q, k, v = (
            multiway(projection, x, layout.image).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout_module.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=layout.allowed, dropout_p=dropout)
        y = y.transpose(1, 2).flatten(2)
        if self.inner_attn_ln is not None:
            y = multiway(self.inner_attn_ln, y, layout.image)
        return multiway(self.out_proj, y, layout.image)


class MultimodalBlock(EncoderLayer):
    """Attention, then feed-forward networks or an MoE layer, of all streams; pre-norm.

    Args:
        args: torchscale's configuration.
        depth: number of the block, from 0.
    """

    def build_self_attention(self, embed_dim: int, args: Any) -> MultiwayAttention:
        """Called by torchscale."""
        return MultiwayAttention(
            args,
            embed_dim,
            args.encoder_attention_heads,
            dropout=args.attention_dropout,
            self_attention=True,
            subln=args.subln,
        )

    @property
    def is_moe(self) -> bool:
        """Whether there is an MoE layer."""
        return hasattr(self, "moe_layer")

    def replace_ffn(self, build: Callable[[str], MoELayer], sets: int) -> None:
        """Puts an MoE layer in the place of the feed-forward networks.

        Args:
            build: gives an MoE layer of this name.
            sets: 1 for both modalities together, 2 for one each.
        """
        del self.ffn
        if sets == 1:
            self.moe_layer = build("moe_layer")
        else:
            self.moe_layer = nn.ModuleDict({side: build(f"moe_layer.{side}") for side in SIDES.values()})

    def moe_sets(self) -> List[Tuple[str, MoELayer]]:
        """(modality, its experts), or ("", those of all); empty for a dense block."""
        if not self.is_moe:
            return []
        if isinstance(self.moe_layer, MoELayer):
            return [("", self.moe_layer)]
        return [(modality, self.moe_layer[side]) for modality, side in SIDES.items()]

    def forward(self, streams: List[Tensor], layouts: List[Layout]) -> Tuple[List[Tensor], List[Tensor]]:
        """[B, L, D] per stream -> the same, and per set of experts balance loss [], z-loss [], statistics [N + 3]."""
        streams = [self._attend(x, layout) for x, layout in zip(streams, layouts)]
        normed = [multiway(self.final_layer_norm, x, layout.image) for x, layout in zip(streams, layouts)]
        if self.is_moe:
            outputs, reports = self._run_experts(normed, layouts)
            outputs = [self.dropout_module(y) for y in outputs]
        else:  # torchscale's networks have the dropout themselves
            outputs = [multiway(self.ffn, x, layout.image) for x, layout in zip(normed, layouts)]
            reports = []
        return [x + self._drop_path(y) for x, y in zip(streams, outputs)], reports

    def _attend(self, x: Tensor, layout: Layout) -> Tensor:
        y = self.self_attn(multiway(self.self_attn_layer_norm, x, layout.image), layout)
        return x + self._drop_path(self.dropout_module(y))

    def _drop_path(self, x: Tensor) -> Tensor:
        return x if self.drop_path is None else self.drop_path(x)

    def _run_experts(self, streams: List[Tensor], layouts: List[Layout]) -> Tuple[List[Tensor], List[Tensor]]:
        """Each set of experts sees its tokens of all streams at once, even if there are none."""
        reports = []
        if isinstance(self.moe_layer, MoELayer):
            unrouted = [layout.unrouted for layout in layouts]
            return through_experts(self.moe_layer, streams, unrouted, reports), reports
        images = [x[:, : layout.image] for x, layout in zip(streams, layouts)]
        texts = [x[:, layout.image :] for x, layout in zip(streams, layouts)]
        unrouted = [(None, None) if u is None else (u[:, :i], u[:, i:]) for i, _, _, _, u in layouts]
        images = through_experts(self.moe_layer["A"], images, [image for image, _ in unrouted], reports)
        texts = through_experts(self.moe_layer["B"], texts, [text for _, text in unrouted], reports)
        return [torch.cat(parts, dim=1) for parts in zip(images, texts)], reports


def through_experts(
    layer: MoELayer, streams: List[Tensor], unrouted: List[Optional[Tensor]], reports: List[Tensor]
) -> List[Tensor]:
    """[B, L, D] per stream -> the same, as one batch [1, R, D]; the layer's losses and statistics go to reports."""
    mask = None
    if any(u is not None for u in unrouted):
        mask = [x.new_zeros(x.shape[:2], dtype=torch.bool) if u is None else u for x, u in zip(streams, unrouted)]
        mask = torch.cat([m.flatten() for m in mask]).unsqueeze(0)
    y, *report = layer(torch.cat([x.flatten(0, 1) for x in streams]).unsqueeze(0), mask)
    reports += report
    parts = y.squeeze(0).split([x.shape[0] * x.shape[1] for x in streams])
    return [part.view_as(x) for part, x in zip(parts, streams)]
