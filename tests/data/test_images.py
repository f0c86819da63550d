"""Every kind of picture becomes upright RGB of 8 bits, or one reason; no bytes whatever do anything else."""

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_prep.images.decoding import check_image
from fairseq_mhmoe.data.images import DEFAULT, BadImage, ImageLimits, decode_image

# rows: red, then blue; so that turns show
FLAG = np.zeros((16, 24, 3), np.uint8)
FLAG[:8, :, 0] = FLAG[8:, :, 2] = 250


def encode(pixels, kind="PNG", mode=None, **options):
    content = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(content, kind, **options)
    return content.getvalue()


def reason_of(content, limits=DEFAULT):
    with pytest.raises(BadImage) as decoded:
        decode_image(content, limits)
    with pytest.raises(BadImage) as checked:
        check_image(content, limits)
    assert decoded.value.reason == checked.value.reason
    return decoded.value.reason


def colours(image):
    """Of the upper and the lower half, rounded to what a JPEG keeps."""
    assert image.mode == "RGB" and image.info == {}
    pixels = np.asarray(image).astype(int)
    half = len(pixels) // 2
    return [tuple((part.reshape(-1, 3).mean(0) > 128).astype(int)) for part in (pixels[:half], pixels[half:])]


RED, BLUE, WHITE = (1, 0, 0), (0, 0, 1), (1, 1, 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_formats(kind):
    image = decode_image(encode(FLAG, kind))
    assert image.size == (24, 16) and colours(image) == [RED, BLUE]
    assert check_image(encode(FLAG, kind)) == (24, 16)


@pytest.mark.parametrize("kind, mode", [("JPEG", "CMYK"), ("TIFF", "CMYK"), ("PNG", "P"), ("GIF", "P")])
def test_colour_models(kind, mode):
    assert colours(decode_image(encode(FLAG, kind, mode))) == [RED, BLUE]


def test_grey_of_1_8_and_16_bits():
    ramp = np.linspace(0, 255, 24 * 16).reshape(16, 24)
    assert np.asarray(decode_image(encode(ramp.astype(np.uint8))))[:, :, 1].tolist() == ramp.astype(np.uint8).tolist()
    deep = encode((ramp * 257).astype(np.uint16))
    wanted = ((ramp * 257).astype(np.uint16) >> 8).astype(int)
    assert np.asarray(decode_image(deep))[:, :, 2].astype(int).tolist() == wanted.tolist()
    assert colours(decode_image(encode(FLAG[:, :, 0] // 250 * 255, mode="1"))) == [WHITE, (0, 0, 0)]


def test_fractions_have_no_white():
    assert reason_of(encode(FLAG[:, :, 0].astype(np.float32), "TIFF")) == "unknown_range"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(mode):
    pixels = np.dstack([FLAG, np.repeat([[255]] * 8 + [[0]] * 8, 24, axis=1).astype(np.uint8)])
    upper = RED if mode == "RGBA" else (0, 0, 0)
    assert colours(decode_image(encode(pixels, "PNG", mode))) == [upper, WHITE]


def test_a_transparent_entry_of_a_palette_is_white():
    image = Image.fromarray(FLAG).quantize(2)
    blue = int(np.asarray(image)[-1, 0])
    content = io.BytesIO()
    image.save(content, "PNG", transparency=blue)
    assert colours(decode_image(content.getvalue())) == [RED, WHITE]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(orientation):
    # the inverse of what the number asks for, so that the flag must come back
    stored = {
        1: FLAG,
        2: FLAG[:, ::-1],
        3: FLAG[::-1, ::-1],
        4: FLAG[::-1],
        5: FLAG.transpose(1, 0, 2),
        6: np.rot90(FLAG),
        7: np.rot90(FLAG.transpose(1, 0, 2), 2),
        8: np.rot90(FLAG, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(np.ascontiguousarray(stored), "JPEG", exif=exif)
    image = decode_image(content)
    assert image.size == (24, 16) == check_image(content) and colours(image) == [RED, BLUE]


def test_broken_exif_data_turn_nothing():
    content = encode(FLAG, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert colours(decode_image(content)) == [RED, BLUE]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_and_pages_are_refused(kind):
    frames = [Image.fromarray(np.roll(FLAG, shift, axis=0)) for shift in (0, 3, 6)]
    content = io.BytesIO()
    frames[0].save(content, kind, save_all=True, append_images=frames[1:])
    assert reason_of(content.getvalue()) == "animated"


def test_a_photo_with_previews_behind_it_is_one_picture():
    content = io.BytesIO()
    Image.fromarray(FLAG).save(content, "MPO", save_all=True, append_images=[Image.fromarray(FLAG[::-1])])
    assert colours(decode_image(content.getvalue())) == [RED, BLUE]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_cut_off_files(kind):
    noise = np.random.default_rng(0).integers(256, size=(60, 60, 3), dtype=np.uint8)
    content = encode(noise, kind)
    assert reason_of(content[: len(content) * 2 // 3]) in ("truncated", "broken", "unknown_format")


def test_limits():
    content = encode(FLAG)
    assert decode_image(content, ImageLimits(max_pixels=24 * 16)).size == (24, 16)
    assert reason_of(content, ImageLimits(max_pixels=24 * 16 - 1)) == "too_many_pixels"
    assert reason_of(content, ImageLimits(max_bytes=len(content) - 1)) == "too_many_bytes"
    assert reason_of(content, ImageLimits(min_side=17)) == "too_small"
    assert reason_of(b"") == "empty"
    assert reason_of(b"<html>not found</html>") == "unknown_format"


@pytest.mark.parametrize("side", [8000, 20_000, 2_000_000_000])
def test_decompression_bombs_are_not_decoded(side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    assert reason_of(content) == "too_many_pixels"


def test_the_error_survives_a_worker_process():
    error = pickle.loads(pickle.dumps(BadImage("broken", "why: so")))
    assert (error.reason, str(error)) == ("broken", "broken: why: so")


NOISE = np.random.default_rng(1).integers(256, size=(16, 24, 3), dtype=np.uint8)
SAMPLES = [encode(NOISE, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF")] + [encode(FLAG, "PNG", "P")]


@given(
    st.sampled_from(SAMPLES), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6), st.floats(0, 1)
)
def test_damaged_files_are_pictures_or_have_a_reason(content, changes, length):
    damaged = bytearray(content)
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    damaged = bytes(damaged[: int(len(damaged) * length)] if length < 0.5 else damaged)
    limits = ImageLimits(max_pixels=1_000_000)
    try:
        image = decode_image(damaged, limits)
    except BadImage as error:
        assert error.reason
        image = None
    if image is not None:
        assert image.mode == "RGB" and image.width * image.height <= 1_000_000
    # what preparation accepts is what training can decode
    try:
        size = check_image(damaged, limits)
    except BadImage:
        size = None
    assert size == (image.size if image is not None else None)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_picture_or_have_a_reason(content):
    for prefix in (b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 ", b"GIF89a", b"BM", b"II*\0"):
        with pytest.raises(BadImage):
            decode_image(prefix + content, ImageLimits(max_pixels=10_000))
