"""To how many different experts the sub-tokens of an image's patches go, for several checkpoints (figures 8 and 10).

S side of the model's images in pixels, P_h x P_w patches, H heads, K choices, N experts.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fairseq_mhmoe.analysis.diversity import Sizes, distinct_experts, expected_uniform, sizes_of
from fairseq_mhmoe.analysis.patches import patch_map
from fairseq_mhmoe.data.image_transforms import fit_image
from fairseq_mhmoe.data.images import decode_image
from fairseq_mhmoe.evaluation.loading import Loaded
from fairseq_mhmoe.evaluation.stream_routing import CLASS_TOKENS, route_stream

DEFINITION = (
    "of each patch: the number of different experts among the K choices of its H sub-tokens, as the router wants them "
    "(before capacity), averaged over the MoE layers that images go through; the image is read alone, nothing is masked"
)


@dataclass(frozen=True)
class ImageMap:
    """One image in one model."""

    pixels: np.ndarray  # [S, S, 3] uint8, what the model sees
    numbers: np.ndarray  # [P_h, P_w] different experts of each patch, mean over layers
    layers: list[dict]  # of each layer: its label and its mean over patches


def read_image(path: Path):
    """A picture from a file, RGB; ValueError with the path when there is none."""
    if not path.is_file():
        raise ValueError(f"--images: no file {path}")
    try:
        return decode_image(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"--images: {path}: {error}") from error


def image_map(loaded: Loaded, picture) -> ImageMap:
    """Route one picture (PIL) alone through a multimodal model: its middle square, in the model's size.

    Raises:
        ValueError: a dense model, or one whose tokens have no sub-tokens.
    """
    sizes = image_sizes(loaded)
    pixels = fit_image(picture, loaded.task.image_size)
    layers = route_stream(loaded, images=pixels[None]).image
    wanted = torch.stack([layer.wanted[0] for layer in layers])
    side = loaded.task.image_size // loaded.task.patch_size
    numbers = patch_map(wanted, sizes.experts, (side, side), first=CLASS_TOKENS)
    means = distinct_experts(wanted[:, CLASS_TOKENS:], sizes.experts).double().mean(1).tolist()
    by_layer = [{"layer": layer.block, "mean": mean} for layer, mean in zip(layers, means, strict=True)]
    return ImageMap(pixels.permute(1, 2, 0).numpy(), numbers, by_layer)


def image_sizes(loaded: Loaded) -> Sizes:
    """N, H, K and the layers that images go through; errors as `sizes_of`."""
    sizes = sizes_of(loaded)
    return Sizes(sizes.experts, sizes.heads, sizes.top_k, tuple(b for b in sizes.blocks if "text" not in str(b)))


def figures_of(found: ImageMap, sizes: Sizes) -> dict:
    """The numbers of one image in one model, for a JSON file."""
    return {
        "mean": float(found.numbers.mean()),
        "least": float(found.numbers.min()),
        "most": float(found.numbers.max()),
        "expected_uniform": expected_uniform(sizes.experts, sizes.heads, sizes.top_k),
        "layers": found.layers,
        "patches": found.numbers.tolist(),
    }
