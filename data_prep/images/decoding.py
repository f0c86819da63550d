"""Decode pictures that nobody has vouched for: upright, RGB, 8 bits a channel, or one reason why not."""

import struct
import zlib
from functools import lru_cache
from io import BytesIO
from typing import NamedTuple

# What may be decoded, by Pillow's names. One picture a file; a JPEG of phones with previews behind it (MPO) is one.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = ("jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff")
# Pillow itself refuses more than this, twice its own MAX_IMAGE_PIXELS.
PILLOW_PIXELS = 178_956_970
ORIENTATION = 0x0112
# Modes with 16 bits for grey; "I" is what older versions of Pillow make of such a PNG.
GREY16 = ("I;16", "I;16L", "I;16B", "I;16N")
ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
# What Pillow's decoders raise for broken files.
ERRORS = (OSError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError, EOFError, struct.error, zlib.error)


class BadImage(ValueError):
    """A file that is no usable picture. reason: a short word to count by, as "truncated" or "too_many_pixels"."""

    def __init__(self, reason: str, details: str):
        super().__init__(f"{reason}: {details}")
        self.reason = reason

    def __reduce__(self):
        return BadImage, (self.reason, str(self)[len(self.reason) + 2 :])


class ImageLimits(NamedTuple):
    """What is refused before it is decoded.

    max_pixels: width x height. max_bytes: of the encoded file. min_side: of width and height.
    """

    max_pixels: int = 50_000_000
    max_bytes: int = 1 << 26
    min_side: int = 8


DEFAULT = ImageLimits()


def decode_image(content: bytes, limits: ImageLimits = DEFAULT):
    """The picture that an encoded file holds, as a training step may use it.

    Turned as its EXIF data say; CMYK, palettes, grey and 16 bits become RGB of 8 bits; what is transparent becomes
    white. Files of several pictures (animations, pages) are refused.

    Args:
        content: of a file in one of FORMATS.
    Returns:
        PIL.Image.Image of mode "RGB" and any size within the limits, without metadata.
    Raises:
        BadImage: empty, too_many_bytes, unknown_format, too_many_pixels, too_small, animated, truncated, broken,
            unknown_range (32 bits or fractions a pixel).
    """
    _check_bytes(content, limits)
    try:
        with _open(content, limits) as image:
            image.load()
            return _upright(image, _to_rgb(image))
    except BadImage:
        raise
    except ERRORS as error:
        raise _bad(error) from None


def check_image(content: bytes, limits: ImageLimits = DEFAULT) -> tuple[int, int]:
    """Width and height as `decode_image` would give, or its BadImage; JPEGs in about half of the time."""
    _check_bytes(content, limits)
    try:
        with _open(content, limits) as image:
            size = image.size
            if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
                # all of the file is read, but only an eighth of the rows and columns is computed
                image.draft(image.mode, (max(1, size[0] // 8), max(1, size[1] // 8)))
                image.load()
            else:
                image.load()
                _to_rgb(image)
            return size[::-1] if _orientation(image) >= 5 else size
    except BadImage:
        raise
    except ERRORS as error:
        raise _bad(error) from None


@lru_cache(maxsize=1)
def _pillow():
    """Pillow, without its warnings about pictures that are checked here; imported when the first picture is."""
    import logging
    import warnings

    from PIL import Image

    logging.getLogger("PIL").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")
    return Image


def _check_bytes(content: bytes, limits: ImageLimits) -> None:
    if not content:
        raise BadImage("empty", "the file has no bytes")
    if len(content) > limits.max_bytes:
        raise BadImage("too_many_bytes", f"{len(content):,} bytes, at most {limits.max_bytes:,}")


def _open(content: bytes, limits: ImageLimits):
    Image = _pillow()
    from PIL import ImageFile

    ImageFile.LOAD_TRUNCATED_IMAGES = False  # other programs switch it on, and get grey areas
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise BadImage("unknown_format", f"starts with {content[:12]!r}, expected {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:
        raise BadImage("too_many_pixels", str(error)) from None
    width, height = image.size
    if width * height > limits.max_pixels:
        raise BadImage("too_many_pixels", f"{width} x {height} pixels, at most {limits.max_pixels:,}")
    if min(width, height) < limits.min_side:
        raise BadImage("too_small", f"{width} x {height} pixels, at least {limits.min_side} on each side")
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise BadImage("animated", f"{image.format} of {image.n_frames} pictures")
    return image


def _to_rgb(image):
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    Image = _pillow()
    if image.mode in GREY16 or (image.mode == "I" and image.format == "PNG"):
        import numpy as np

        # the upper byte of each pixel; Pillow's own conversion would cut everything above 255
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImage("unknown_range", f"{image.format} of mode {image.mode!r}: nobody knows what is white")
    if image.mode in ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _orientation(image) -> int:
    """EXIF's number from 1 to 8; 1, as it is, where the data are missing or broken."""
    try:
        number = image.getexif().get(ORIENTATION, 1)
    except ERRORS:
        return 1
    return number if isinstance(number, int) and 1 <= number <= 8 else 1


def _upright(image, rgb):
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(_orientation(image))
    upright = rgb if turn is None else rgb.transpose(turn)
    upright.info.clear()
    return upright


def _bad(error: Exception) -> BadImage:
    text = f"{type(error).__name__}: {error}"
    return BadImage("truncated" if "truncated" in str(error).lower() else "broken", text)
