"""Random crops of images in memory, for the training of a tokenizer."""

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crops(images: list[Tensor], size: int, min_scale: float, generator: torch.Generator) -> Tensor:
    """One random square of each image, scaled to size x size, half of them mirrored.

    Args:
        images: uint8 [3, H, W] each.
        size: side of the result in pixels.
        min_scale: smallest side of the square, as a share of the image's shorter side.
        generator: of the random numbers, on the CPU.
    Returns:
        uint8 [images, 3, size, size].
    """
    return torch.stack([_random_crop(image, size, min_scale, generator) for image in images])


def _random_crop(image: Tensor, size: int, min_scale: float, generator: torch.Generator) -> Tensor:
    scale, down, right, mirror = torch.rand(4, generator=generator).tolist()
    height, width = image.shape[1:]
    side = max(1, round(min(height, width) * (min_scale + (1 - min_scale) * scale)))
    top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
    square = image[:, top : top + side, left : left + side]
    if mirror < 0.5:
        square = square.flip(2)
    if side == size:
        return square
    # antialias matters when the square is much larger than the result
    scaled = F.interpolate(square[None].float(), size=(size, size), mode="bilinear", antialias=True)
    return scaled[0].round().clamp(0, 255).to(torch.uint8)
