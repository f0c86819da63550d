"""What of images to prepare and how: sources, and the settings that decide the output's bytes."""

import math
from dataclasses import dataclass
from pathlib import Path

from data_prep.images.decoding import PILLOW_PIXELS, ImageLimits
from data_prep.recipe import SPLITS, check_source_name

# folders of the output that are no source's
RESERVED = frozenset({"work", "rejected"})


@dataclass(frozen=True)
class ImageInput:
    """Files of one source, or of one split of it.

    source: name; a folder of the output where files are packed. files: to read, in this order. format: a name out of
    `data_prep.images.formats.FORMATS`. images: folder of the pictures that listings name; None: the listing's own.
    split: where all of them go; None for the shares of the settings, by hash of the image.
    """

    source: str
    files: tuple[Path, ...]
    format: str
    images: Path | None = None
    split: str | None = None

    def __post_init__(self):
        check_source_name(self.source)
        if self.source in RESERVED:
            raise ValueError(f"source name {self.source!r}; expected none of {', '.join(sorted(RESERVED))}")
        if self.split is not None and self.split not in SPLITS:
            raise ValueError(f"{self.source}: split is {self.split!r}; expected one of {', '.join(SPLITS)}")
        if not self.files:
            raise ValueError(f"source {self.source!r} has no files; name some")


@dataclass(frozen=True)
class ImageSettings:
    """What decides the output beside the inputs.

    seed: of the split. valid_share, test_share: expected shares of the images. max_pixels, max_bytes, min_side: see
    ImageLimits. max_caption_chars: longer captions are rejected. caption_key: field of img2dataset's JSON files that
    has the caption; None: the text file, else the field "caption". images_per_tar: entries of a listing that are
    packed into one tar. allow_damaged_files: take what stands before the damage in a tar instead of stopping.
    """

    seed: int = 0
    valid_share: float = 0.005
    test_share: float = 0.005
    max_pixels: int = ImageLimits().max_pixels
    max_bytes: int = ImageLimits().max_bytes
    min_side: int = ImageLimits().min_side
    max_caption_chars: int = 2000
    caption_key: str | None = None
    images_per_tar: int = 10_000
    allow_damaged_files: bool = False

    def __post_init__(self):
        shares = self.valid_share, self.test_share
        if not all(map(math.isfinite, shares)) or min(shares) < 0 or sum(shares) >= 1:
            raise ValueError(
                f"valid_share {self.valid_share} and test_share {self.test_share} must be 0 or more and leave a rest "
                "for training"
            )
        for name in ("max_pixels", "max_bytes", "min_side", "max_caption_chars", "images_per_tar"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.max_pixels > PILLOW_PIXELS:
            raise ValueError(f"max_pixels is {self.max_pixels}; Pillow decodes at most {PILLOW_PIXELS}")
        if self.max_bytes >= 1 << 32:
            raise ValueError(f"max_bytes is {self.max_bytes}; the index counts to {(1 << 32) - 1}")

    @property
    def limits(self) -> ImageLimits:
        """What is refused before it is decoded."""
        return ImageLimits(self.max_pixels, self.max_bytes, self.min_side)
