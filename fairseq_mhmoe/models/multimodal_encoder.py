"""torchscale's BEiT3 with all streams of a step side by side, dense or with MoE layers.

Shapes: B rows, P patches, T text tokens, L = 1 + P + T length (a part may be absent), D width.
"""

import math
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchscale.architecture.config import EncoderConfig
from torchscale.architecture.encoder import Encoder
from torchscale.component.embedding import PositionalEmbedding, TextEmbedding, VisionEmbedding
from torchscale.component.multiway_network import MutliwayEmbedding

from fairseq_mhmoe.models.moe_options import moe_group
from fairseq_mhmoe.models.multimodal_block import Layout, MultimodalBlock, multiway
from fairseq_mhmoe.models.multimodal_options import has_experts, moe_config, moe_sets
from fairseq_mhmoe.moe import MoELayer

FIRST_POSITION = 2  # fairseq's tables of positions start there
INITIAL_STD = 0.02


class MultimodalEncoder(Encoder):
    """torchscale's Encoder over several streams."""

    def build_encoder_layer(self, args: Any, depth: int, **unused: Any) -> MultimodalBlock:
        """Called by torchscale."""
        return MultimodalBlock(args, depth)

    def forward(self, streams: List[Tensor], layouts: List[Layout]) -> Tuple[List[Tensor], Dict[str, List[Any]]]:
        """Embeddings [B, L, D] per stream, without positions -> features [B, L, D], and the MoE layers' reports."""
        streams = [self._enter(x, layout) for x, layout in zip(streams, layouts)]
        extra: Dict[str, List[Any]] = {"l_aux": [], "z_loss": [], "moe_stats": [], "moe_layers": []}
        for number, block in enumerate(self.layers):
            if self.args.recompute and torch.is_grad_enabled():
                streams, reports = checkpoint(block, streams, layouts, use_reentrant=False)
            else:
                streams, reports = block(streams, layouts)
            for i, name in enumerate(("l_aux", "z_loss", "moe_stats")):
                extra[name] += reports[i::3]
            extra["moe_layers"] += [label(number, modality) for modality, _ in block.moe_sets()]
        return [multiway(self.layer_norm, x, layout.image) for x, layout in zip(streams, layouts)], extra

    def _enter(self, x: Tensor, layout: Layout) -> Tensor:
        lengths = layout.image, layout.length - layout.image
        tables = zip((self.embed_positions.A, self.embed_positions.B), lengths)
        x = x + torch.cat([table.weight[FIRST_POSITION : FIRST_POSITION + length] for table, length in tables])
        x = self.dropout_module(x)
        return x if layout.pads is None else x.masked_fill(layout.pads.unsqueeze(-1), 0.0)


def label(number: int, modality: str) -> Any:
    """How the log names a set of experts: 3, or "3_image" where each modality has its own."""
    return f"{number}_{modality}" if modality else number


class MultimodalBEiT3(nn.Module):
    """torchscale's BEiT3 for all streams of a step, from its parts.

    Args:
        cfg: the model's options, validated.
        symbols: V, of the dictionary.
        pad: its symbol for padding.
        image_size, patch_size: side of images and patches, in pixels.
        text_positions: longest text, in tokens.
    """

    def __init__(self, cfg: Any, symbols: int, pad: int, image_size: int, patch_size: int, text_positions: int):
        args = EncoderConfig(
            multiway=True,
            no_output_layer=True,
            subln=not cfg.no_subln,
            activation_fn=str(cfg.activation_fn),
            encoder_embed_dim=cfg.encoder_embed_dim,
            encoder_attention_heads=cfg.encoder_attention_heads,
            encoder_ffn_embed_dim=cfg.encoder_ffn_embed_dim,
            encoder_layers=cfg.encoder_layers,
            dropout=cfg.dropout,
            drop_path_rate=cfg.drop_path_rate,
            attention_dropout=cfg.attention_dropout,
            activation_dropout=cfg.activation_dropout,
        )
        args.recompute = cfg.checkpoint_activations  # not by fairscale's wrapper, which would cut losses off
        super().__init__()
        self.pad, self.text_positions = pad, text_positions
        width = args.encoder_embed_dim
        self.text_embed = TextEmbedding(symbols, width)
        self.vision_embed = VisionEmbedding(
            image_size, patch_size, embed_dim=width, contain_mask_token=True, prepend_cls_token=True
        )
        lengths = self.vision_embed.num_position_embeddings(), text_positions
        tables = [PositionalEmbedding(length + FIRST_POSITION, width) for length in lengths]
        self.encoder = MultimodalEncoder(args, embed_positions=MutliwayEmbedding(tables))
        self._add_experts(cfg)
        self._initialize()

    def _add_experts(self, cfg: Any) -> None:
        """After torchscale has scaled what SubLN scales, by names that experts might share."""
        config = moe_config(cfg)
        if config is None:
            return
        group, scale = moe_group(cfg), math.sqrt(math.log(2 * cfg.encoder_layers))
        for number, block in enumerate(self.encoder.layers):
            if has_experts(cfg, number):
                path = f"beit3.encoder.layers.{number}."
                block.replace_ffn(lambda name, path=path: MoELayer(config, group, path + name), moe_sets(cfg))
                for _, layer in block.moe_sets():
                    if not cfg.no_subln:
                        layer.scale_expert_weights(scale)

    def _initialize(self) -> None:
        """Positions no larger than words; torchscale leaves nn.Embedding's 1, beside which nothing else is seen."""
        for table in (self.encoder.embed_positions.A, self.encoder.embed_positions.B):
            nn.init.trunc_normal_(table.weight, std=INITIAL_STD)
        for token in (self.vision_embed.cls_token, self.vision_embed.mask_token):
            nn.init.trunc_normal_(token, std=INITIAL_STD)

    def moe_layers(self) -> List[Tuple[Any, MoELayer]]:
        """(label in the log, set of experts), in order; empty for a dense model."""
        blocks = enumerate(self.encoder.layers)
        return [(label(number, modality), layer) for number, block in blocks for modality, layer in block.moe_sets()]

    def forward(
        self, streams: List[Dict[str, Any]]
    ) -> Tuple[List[Tuple[Optional[Tensor], Optional[Tensor]]], Dict[str, List[Any]]]:
        """Features of several streams.

        Args:
            streams: each a dictionary with "images" uint8 [B, 3, S, S], "tokens" [B, T] (pads right) or both; and
                "image_mask" bool [B, P], "causal", "blank" (True: no token is for experts).
        Returns:
            per stream features of image [B, 1 + P, D] and text [B, T, D], None where it is absent; and the reports of
            MoE layers, see `MultimodalEncoder`.
        Raises:
            ValueError: neither images nor tokens, images of another size or type, a text that is too long.
        """
        entered = [self._embed(stream) for stream in streams]
        layouts = [layout for _, layout in entered]
        features, extra = self.encoder([x for x, _ in entered], layouts)
        return [parts_of(x, layout) for x, layout in zip(features, layouts)], extra

    def _embed(self, stream: Dict[str, Any]) -> Tuple[Tensor, Layout]:
        images, tokens = stream.get("images"), stream.get("tokens")
        if images is None and tokens is None:
            raise ValueError(f"a stream of {sorted(stream)}: expected images, tokens or both")
        parts, pads, image = [], None, 0
        if images is not None:
            self._check_images(images)
            pixels = images.to(self.vision_embed.proj.weight.dtype) / 127.5 - 1
            parts.append(self.vision_embed(pixels, stream.get("image_mask")))
            image = parts[0].shape[1]
        if tokens is not None:
            if tokens.shape[1] > self.text_positions:
                raise ValueError(f"a text of {tokens.shape[1]} tokens: the model takes {self.text_positions} at most")
            parts.append(self.text_embed(tokens))
            pads = F.pad(tokens.eq(self.pad), (image, 0))
        x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        length = x.shape[1]
        unrouted = x.new_ones(x.shape[:2], dtype=torch.bool) if stream.get("blank") else pads
        allowed = who_may_look(pads, image, length, stream.get("causal", False))
        return x, Layout(image, length, pads, allowed, unrouted)

    def _check_images(self, images: Tensor) -> None:
        side = self.vision_embed.img_size[0]
        if images.dtype != torch.uint8 or images.shape[1:] != (3, side, side):
            given = f"images of type {images.dtype} and shape {tuple(images.shape)}"
            raise ValueError(f"{given}: expected uint8 [rows, 3, {side}, {side}]")


def parts_of(x: Tensor, layout: Layout) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """[B, L, D] -> images' [B, 1 + P, D] and texts' [B, T, D]; None where there are none."""
    image, text = x[:, : layout.image], x[:, layout.image :]
    return (image if layout.image else None), (text if layout.image < layout.length else None)


def who_may_look(pads: Optional[Tensor], image: int, length: int, causal: bool) -> Optional[Tensor]:
    """[B, 1, 1 or L, L] True where a query may look at a key: nobody at pads; None for everywhere.

    Args:
        pads: [B, L]; None if there is no text.
        image: tokens of a row that are an image's.
        causal: for captions: images look at images, words at images, earlier words and themselves.
    """
    if pads is None:
        return None
    keys = ~pads
    keys = (keys | ~keys.any(dim=1, keepdim=True))[:, None, None, :]  # a row of pads alone looks at them
    if not causal:
        return keys
    earlier = torch.ones(length, length, dtype=torch.bool, device=pads.device).tril()
    earlier[:, :image] = True
    return keys & earlier
