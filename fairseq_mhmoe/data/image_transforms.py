"""From a decoded image to the square that a model reads: cropped, flipped and coloured at random, or as it is.

S side of the square in pixels. Everything random comes from a generator that the caller gives; torch's and numpy's
global ones are not touched.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

AUGMENTATIONS = ("crop", "none")
# of random crops, as Inception's: width by height
NARROWEST_CROP = 3 / 4
ATTEMPTS = 10


def fit_image(image: "Image.Image", size: int) -> Tensor:
    """The middle of an RGB image, its shorter side `size` pixels: uint8 [3, S, S]; bicubic, with antialiasing."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    # cut first: a panorama whose shorter side is enlarged would be a picture of many megapixels
    width, height = image.size
    side = min(width, height)
    image = functional.resized_crop(
        image, (height - side) // 2, (width - side) // 2, side, side, [size, size], InterpolationMode.BICUBIC
    )
    return functional.pil_to_tensor(image)


class ImageTransform:
    """Random resized crop, horizontal flip and colour jitter, or none of them.

    Args:
        size: S.
        augmentation: "crop", or "none" for `fit_image` without flips and jitter.
        scale_min: smallest share of the image that a crop shows; the largest is 1.
        flip: whether half of the images are mirrored, which makes text about left and right wrong.
        color_jitter: brightness, contrast and saturation change by a factor from 1 - J to 1 + J; BEiT has 0.4.
    """

    def __init__(
        self,
        size: int,
        augmentation: str = "crop",
        scale_min: float = 0.2,
        flip: bool = True,
        color_jitter: float = 0.0,
    ):
        if augmentation not in AUGMENTATIONS:
            raise ValueError(f"image augmentation {augmentation!r}: expected one of {', '.join(AUGMENTATIONS)}")
        # workers are forks, which then need not import it
        import torchvision.transforms.v2  # noqa: F401

        self.size = size
        self.random = augmentation == "crop"
        self.scale_min = scale_min
        self.flip = flip
        self.color_jitter = color_jitter

    def __call__(self, image: "Image.Image", generator: np.random.Generator) -> Tensor:
        """An RGB image as uint8 [3, S, S]."""
        if not self.random:
            return fit_image(image, self.size)
        from torchvision.transforms.v2 import InterpolationMode, functional

        box = crop_box(generator, *image.size, self.scale_min)
        mirrored = generator.random() < 0.5
        image = functional.resized_crop(image, *box, [self.size, self.size], InterpolationMode.BICUBIC)
        if self.flip and mirrored:
            image = functional.horizontal_flip(image)
        pixels = functional.pil_to_tensor(image)
        return self._jittered(pixels, generator) if self.color_jitter > 0 else pixels

    def _jittered(self, pixels: Tensor, generator: np.random.Generator) -> Tensor:
        from torchvision.transforms.v2 import functional

        changes = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
        factors = generator.uniform(max(0.0, 1 - self.color_jitter), 1 + self.color_jitter, size=len(changes))
        for number in generator.permutation(len(changes)):
            pixels = changes[number](pixels, float(factors[number]))
        return pixels


def crop_box(generator: np.random.Generator, width: int, height: int, scale_min: float) -> tuple[int, int, int, int]:
    """A random rectangle in an image of this size: (top, left, rows, columns).

    Its area is scale_min .. 1 of the image's, its width 3/4 .. 4/3 of its height. Where ten attempts don't fit (long
    and thin images) it is the largest of these proportions in the middle, as in torchvision's RandomResizedCrop.
    """
    for _ in range(ATTEMPTS):
        area = width * height * generator.uniform(scale_min, 1.0)
        aspect = math.exp(generator.uniform(math.log(NARROWEST_CROP), -math.log(NARROWEST_CROP)))
        columns, rows = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < columns <= width and 0 < rows <= height:
            top = int(generator.integers(height - rows + 1))
            return top, int(generator.integers(width - columns + 1)), rows, columns
    rows = min(height, max(1, round(width / NARROWEST_CROP)))
    columns = min(width, max(1, round(height / NARROWEST_CROP)))
    return (height - rows) // 2, (width - columns) // 2, rows, columns
