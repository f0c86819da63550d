"""Which experts the sub-tokens of images and texts go to in a multimodal model.

B rows, P patches, T text length, H heads, K choices, N experts. A row's tokens are a class token, P patches, T symbols.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairseq_mhmoe.evaluation.loading import Loaded
from fairseq_mhmoe.evaluation.routing import LayerRouting, observed
from fairseq_mhmoe.moe.selection import Selection

MODALITIES = ("image", "text")
CLASS_TOKENS = 1  # before the patches


@dataclass(frozen=True)
class StreamRouting:
    """What the MoE layers decided about the rows of one stream, by modality: [B, 1 + P, ...] and [B, T, ...].

    An entry holds the layers in order; with separate experts those of that modality. A modality that the stream lacks
    has none.
    """

    image: list[LayerRouting]
    text: list[LayerRouting]


@torch.inference_mode()
def route_stream(loaded: Loaded, images: Tensor | None = None, tokens: Tensor | None = None) -> StreamRouting:
    """Run a multimodal model over rows of one stream, nothing masked, and tell what its MoE layers decided.

    Args:
        images: uint8 [B, 3, S, S], any device; None for text alone.
        tokens: int64 [B, T], pads on the right; None for images alone.
    Raises:
        ValueError: neither of them, or not what the model takes.
    """
    if images is None and tokens is None:
        raise ValueError("nothing to route: expected images, tokens or both")
    stream: dict[str, Any] = {}
    if images is not None:
        stream["images"] = images.to(loaded.device)
    if tokens is not None:
        # no position, so that nothing is computed for the vocabulary
        stream["tokens"] = tokens.to(loaded.device)
        stream["text_positions"] = torch.zeros(0, dtype=torch.int64, device=loaded.device)
    name = "text" if images is None else "image" if tokens is None else "pair"
    with observed(loaded) as found:
        loaded.model(**{name: stream})
    rows = len(images if images is not None else tokens)
    layers = loaded.moe_layers()
    parts: dict[str, list[LayerRouting]] = {modality: [] for modality in MODALITIES}
    text = 0 if tokens is None else tokens.shape[1]
    for label, layer in layers:
        of_layer = _by_token(label, found.get(label), rows, layer.config.heads)
        if of_layer is None:
            continue
        own = str(label).partition("_")[2]  # the modality of separate experts
        length = of_layer.wanted.shape[1]
        image = length if own == "image" else 0 if own == "text" else length - text
        if image:
            parts["image"].append(_cut(of_layer, slice(0, image)))
        if length > image:
            parts["text"].append(_cut(of_layer, slice(image, length)))
    return StreamRouting(**parts)


def _by_token(label: int | str, selection: Selection | None, rows: int, heads: int) -> LayerRouting | None:
    """[S, ...] -> [B, L, H, ...]; None where no token came."""
    if selection is None or selection.wanted.shape[0] == 0:
        return None

    def by_token(x: Tensor) -> Tensor:
        return x.view(rows, -1, heads, x.shape[-1])

    return LayerRouting(label, *map(by_token, (selection.wanted, selection.experts, selection.probs)))


def _cut(routing: LayerRouting, tokens: slice) -> LayerRouting:
    return LayerRouting(routing.block, routing.wanted[:, tokens], routing.experts[:, tokens], routing.probs[:, tokens])
