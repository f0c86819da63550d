"""Parameters and training FLOPs of a multimodal encoder with or without MoE layers (D width, P patches, T text tokens,
L = 1 + P + T tokens of an image-text pair, V vocabulary).

Every weight but the experts' is there twice, for images and for text, and a token passes one of the two.
"""

from dataclasses import dataclass
from typing import ClassVar, Optional, Union

from .config import MoEConfig
from .cost import (
    Cost,
    LanguageModelShape,
    feed_forward_macs,
    feed_forward_params,
    model_cost,
    moe_layer_cost,
    training_flops,
)

MODALITIES = 2
CHANNELS = 3
FIRST_POSITION = 2  # unused rows of a table of positions


@dataclass(frozen=True)
class MultimodalShape:
    """What the cost of a multimodal model depends on; FLOPs are those of masked image-text pairs."""

    vocab_size: int  # V
    codes: int  # of the visual tokenizer
    layers: int
    d_model: int
    ffn_dim: int  # of the dense layers
    activation: str  # relu, gelu
    subln: bool
    image_size: int
    patch_size: int
    text_positions: int  # longest text
    tokens_per_sample: int  # T, text of a pair
    moe_freq: int  # layer i is a MoE layer when (i + 1) % moe_freq == 0; 0 = never
    moe: Optional[MoEConfig] = None
    moe_sets: int = 1  # sets of experts in a MoE layer: one, or one per modality
    image_masked: float = 0.4  # part of a pair's patches and words that is predicted
    text_masked: float = 0.5
    bias: ClassVar[bool] = True
    rms_norm: ClassVar[bool] = False

    @property
    def patches(self) -> int:
        """P, of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def moe_layers(self) -> int:
        """How many of the layers are MoE layers."""
        return self.layers // self.moe_freq if self.moe is not None and self.moe_freq else 0


def cost_of(shape: Union[LanguageModelShape, MultimodalShape]) -> Cost:
    """Cost of a model of either kind."""
    return multimodal_cost(shape) if isinstance(shape, MultimodalShape) else model_cost(shape)


def multimodal_cost(shape: MultimodalShape) -> Cost:
    """Cost of the encoder with its heads for codes and words. FLOPs are per token of a pair: the heads' are spread over
    all L tokens; activated is what a pair passes, K * H experts of each set at most."""
    s, d = shape, shape.d_model
    length, pixels = 1 + s.patches + s.tokens_per_sample, CHANNELS * s.patch_size**2
    norm = 2 * d
    embeddings = s.vocab_size * d + (pixels + 1) * d + 2 * d
    positions = (1 + s.patches + s.text_positions + MODALITIES * FIRST_POSITION) * d
    heads = (s.vocab_size + s.codes) * (d + 1)
    attention = 4 * (d**2 + d) + (norm if s.subln else 0)
    params = embeddings + positions + heads + MODALITIES * (s.layers * (attention + 2 * norm) + norm)
    predicted = s.image_masked * s.patches * s.codes + s.text_masked * s.tokens_per_sample * s.vocab_size
    macs = s.layers * (4 * d**2 + 2 * length * d) + round((s.patches * pixels + predicted) * d / length)
    dense = s.layers - s.moe_layers
    ffn = feed_forward_params(d, s.ffn_dim, s.activation, s.bias, s.subln, s.rms_norm)
    params += dense * MODALITIES * ffn
    macs += dense * feed_forward_macs(d, s.ffn_dim, s.activation)
    body = Cost(params, params, 0, params, training_flops(macs))
    if s.moe is None or not s.moe_layers:
        return body
    layer, sets = moe_layer_cost(s.moe), s.moe_layers * s.moe_sets
    experts = Cost(
        sets * layer.params_total,
        sets * layer.params_non_expert,
        sets * layer.params_expert,
        sets * layer.params_activated,
        s.moe_layers * layer.flops_per_token,
    )
    return body + experts
