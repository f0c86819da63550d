"""The registered fairseq model `mhmoe_multimodal`: BEiT-3's encoder, dense or with MoE layers, and heads.

Shapes: B rows, P patches, T text tokens, M positions, D width, V symbols, C classes.
"""

from typing import Any, Dict, List, Optional, Tuple

import torch
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from fairseq_mhmoe.models.multimodal_heads import build_heads
from fairseq_mhmoe.models.multimodal_options import MHMoEMultimodalConfig, multimodal_shape, validate
from fairseq_mhmoe.models.options import with_defaults
from fairseq_mhmoe.moe.multimodal_cost import MultimodalShape, multimodal_cost

STREAMS = ("image", "text", "pair")
Stream = Dict[str, Any]


@register_model("mhmoe_multimodal", dataclass=MHMoEMultimodalConfig)
class MHMoEMultimodalModel(BaseFairseqModel):
    """An encoder of images, texts and pairs, all streams of a step in one call, with the heads that a task asks for.

    Args:
        beit3: the encoder, see `multimodal_encoder.MultimodalBEiT3`.
        heads: by name; "image" (codes of patches), "text" (symbols) and others (classes).
    """

    def __init__(self, beit3: nn.Module, heads: nn.ModuleDict):
        super().__init__()
        self.beit3, self.heads = beit3, heads
        self.shape: Optional[MultimodalShape] = None  # as the cost is counted; known when a task builds the model
        self.fits_other_checkpoints = False  # set while weights of another model are loaded, see multimodal_loading

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "MHMoEMultimodalModel":
        """Build the model for a task's pictures, dictionary and heads.

        Raises:
            ValueError: options that no model can have.
        """
        from fairseq_mhmoe.models.multimodal_encoder import MultimodalBEiT3  # imports torchscale, which takes seconds

        cfg = with_defaults(cfg, MHMoEMultimodalConfig)
        validate(cfg)
        check_pictures(task.image_size, task.patch_size)
        words = task.source_dictionary
        sizes = task.image_size, task.patch_size, task.max_text_positions
        beit3 = MultimodalBEiT3(cfg, len(words), words.pad(), *sizes)
        heads = task.model_heads()
        model = cls(beit3, build_heads(cfg.encoder_embed_dim, len(words), heads))
        if hasattr(task, "cost_options"):
            codes = heads.get("image", {}).get("classes", 0)
            model.shape = multimodal_shape(cfg, len(words), codes, task.cost_options())
        model.patch_size, model.pad = task.patch_size, words.pad()
        return model

    def training_flops_per_token(self) -> Optional[int]:
        """FLOPs of a training step per token of a pair, as `mhmoe-cost` counts them; None: the task has no pairs.

        Heads that classify a whole example are left out.
        """
        return None if self.shape is None else multimodal_cost(self.shape).flops_per_token

    def count_tokens(self, **streams: Any) -> Tuple[Tensor, int]:
        """(tokens that the encoder reads, images) of the streams of a step; pads and blank rows do not count.

        An image has a token for itself and one for each patch. The first number is on the device, whatever streams
        there are: fairseq adds up tensors and numbers apart, and every rank must have the same of each.
        """
        tokens, images = torch.zeros((), dtype=torch.int64, device=next(self.parameters()).device), 0
        for stream in streams.values():
            if not isinstance(stream, dict) or stream.get("blank"):
                continue
            if stream.get("images") is not None:
                rows, side = len(stream["images"]), stream["images"].shape[-1]
                images += rows
                tokens = tokens + rows * (1 + (side // self.patch_size) ** 2)
            if stream.get("tokens") is not None:
                tokens = tokens + stream["tokens"].ne(self.pad).sum()
        return tokens, images

    def forward(
        self,
        image: Optional[Stream] = None,
        text: Optional[Stream] = None,
        pair: Optional[Stream] = None,
        head: Optional[str] = None,
    ) -> Tuple[Any, Dict[str, List[Any]]]:
        """Logits of the streams that are given.

        Args:
            image, text, pair: "images" uint8 [B, 3, S, S]; "image_mask" bool [B, P], True where the mask token stands
                for the patch; "image_positions" int64 [M] into B * P, None: no codes; "tokens" int64 [B, T], pads
                right; "text_positions" int64 [M] into B * T, None: all; "causal" True for captions; "blank" True where
                a process has no data and its tokens are not for experts. A text has no images, an image no tokens.
            head: name of a head of classes; the one stream given is classified.
        Returns:
            {stream: {"image": [M, C], "text": [M, V]}}, or with a head [B / inputs, C]; and extra: lists with one
            entry per set of experts: "l_aux", "z_loss" (scalars), "moe_stats" ([N + 3]) and "moe_layers" (its label:
            the block's number, "3", or with separate sets "3_image" and "3_text").
        Raises:
            ValueError: no stream, a stream without its part, no such head, or several streams for one.
        """
        given = {name: stream for name, stream in zip(STREAMS, (image, text, pair)) if stream is not None}
        if not given:
            raise ValueError(f"nothing to look at: expected one of {', '.join(STREAMS)}")
        features, extra = self.beit3(list(given.values()))
        if head is not None:
            return self._classify(head, features), extra
        return {name: self._predict(stream, *parts) for (name, stream), parts in zip(given.items(), features)}, extra

    def extract_features(
        self, **streams: Stream
    ) -> Tuple[Dict[str, Tuple[Optional[Tensor], Optional[Tensor]]], Dict[str, List[Any]]]:
        """As forward, but features after the last norm: {stream: (image [B, 1 + P, D], text [B, T, D])}."""
        features, extra = self.beit3(list(streams.values()))
        return dict(zip(streams, features)), extra

    def moe_layers(self) -> List[Tuple[Any, nn.Module]]:
        """(label in the log, MoELayer) of each set of experts, in order; empty for a dense model."""
        return self.beit3.moe_layers()

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        """Called before weights are loaded: fits those of another task or image size, if that is wanted."""
        from fairseq_mhmoe.models.multimodal_loading import fit

        if self.fits_other_checkpoints:
            fit(state_dict, self, f"{name}." if name else "")

    def _predict(self, stream: Stream, image: Optional[Tensor], text: Optional[Tensor]) -> Dict[str, Tensor]:
        logits = {}
        if image is not None and stream.get("image_positions") is not None:
            logits["image"] = self._head("image")(take(image[:, 1:], stream["image_positions"]))
        if text is not None and "text" in self.heads:
            logits["text"] = self.heads["text"](take(text, stream.get("text_positions")))
        return logits

    def _classify(self, head: str, features: List[Tuple[Optional[Tensor], Optional[Tensor]]]) -> Tensor:
        if len(features) != 1 or features[0][0] is None:
            raise ValueError(f"head {head!r}: expected one stream, with images")
        image, text = (None if part is None else part[:, 0] for part in features[0])
        return self._head(head)(image, text)

    def _head(self, name: str) -> nn.Module:
        if name not in self.heads:
            raise ValueError(f"no head {name!r}; the task asked for {', '.join(self.heads) or 'none'}")
        return self.heads[name]


def take(features: Tensor, positions: Optional[Tensor]) -> Tensor:
    """[B, L, D] at positions [M] of B * L -> [M, D]; None: all, [B, L, D]."""
    return features if positions is None else features.flatten(0, 1).index_select(0, positions)


def check_pictures(image_size: int, patch_size: int) -> None:
    """Raises ValueError unless patches fill an image."""
    if patch_size < 1 or image_size < patch_size or image_size % patch_size:
        raise ValueError(f"--image-size {image_size}: expected a multiple of --patch-size {patch_size}")
