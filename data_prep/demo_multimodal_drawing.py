"""Pictures of scenes: OpenMoji's colour font drawn with Pillow on coloured backgrounds. Needs Pillow and numpy."""

import io
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from data_prep.demo_multimodal_emoji import GLYPH_SIZE, Emoji
from data_prep.demo_multimodal_scenes import COLOURS, Background, Scene, Thing

SHADE = 14  # a colour's red, green and blue vary by so much around the word's
NOISE = 40  # standard deviation of speckles
GLYPH_BOX = 2 * GLYPH_SIZE


class Draughtsman:
    """Draws scenes; keeps the glyphs that it has drawn.

    Args:
        font: OpenMoji's glyf_colr0.ttf. side: of the pictures in pixels.
    Raises:
        ValueError: Pillow was built without raqm, which joins the characters of an emoji.
    """

    def __init__(self, font: Path, side: int):
        if not features.check("raqm"):
            raise ValueError("this Pillow has no raqm, which emoji of several characters need; install Pillow's wheel")
        self.side = side
        self._font = ImageFont.truetype(str(font), GLYPH_SIZE, layout_engine=ImageFont.Layout.RAQM)
        self._glyphs: dict[str, Image.Image] = {}

    def draw(self, scene: Scene) -> Image.Image:
        """The picture of a scene, RGB; equal scenes have equal pictures."""
        rng = random.Random(scene.seed)
        picture = self.background(scene.background, rng)
        for thing in scene.things:
            self._put(picture, thing, rng)
        return picture

    def background(self, background: Background, rng: random.Random) -> Image.Image:
        """The picture before anything is put onto it."""
        side = self.side
        first, last = shade(background.colours[0], rng), shade(background.colours[-1], rng)
        if background.kind == "two-tone":
            along = (np.arange(side) >= side * rng.uniform(0.35, 0.65)).astype(np.float32)
        elif background.kind == "gradient":
            along = np.linspace(0, 1, side, dtype=np.float32)
        else:
            along = np.zeros(side, np.float32)
        pixels = first + (last - first) * along[:, None]
        pixels = np.repeat(
            pixels[:, None] if background.angle else pixels[None], side, axis=1 if background.angle else 0
        )
        if background.kind == "noise":
            noise = np.random.default_rng(rng.randrange(1 << 30)).normal(0, NOISE, (side // 2, side // 2, 1))
            pixels = pixels + noise.repeat(2, 0).repeat(2, 1)
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))

    def glyph(self, emoji: Emoji) -> Image.Image:
        """An emoji in its colours, cut to what is drawn of it, RGBA."""
        if emoji.characters not in self._glyphs:
            sheet = Image.new("RGBA", (GLYPH_BOX, GLYPH_BOX))
            corner = (GLYPH_SIZE // 4, GLYPH_SIZE // 4)
            ImageDraw.Draw(sheet).text(corner, emoji.characters, font=self._font, embedded_color=True)
            box = sheet.getbbox()
            if box is None:
                raise ValueError(f"the font draws nothing for the emoji {emoji.name!r}; use another version of it")
            self._glyphs[emoji.characters] = sheet.crop(box)
        return self._glyphs[emoji.characters]

    def _put(self, picture: Image.Image, thing: Thing, rng: random.Random) -> None:
        """Onto the picture; the longer side of what is drawn has the thing's size."""
        glyph = self.glyph(thing.emoji)
        scale = thing.size * self.side / max(glyph.size)
        size = tuple(max(1, round(length * scale)) for length in glyph.size)
        glyph = glyph.resize(size, Image.Resampling.BILINEAR)
        corner = (round(thing.x * self.side - size[0] / 2), round(thing.y * self.side - size[1] / 2))
        if thing.colour is None:
            picture.paste(glyph, corner, glyph)
        else:
            colour = tuple(int(part) for part in shade(thing.colour, rng).clip(0, 255))
            picture.paste(colour, (*corner, corner[0] + size[0], corner[1] + size[1]), glyph.getchannel("A"))


def shade(colour: str, rng: random.Random) -> np.ndarray:
    """A colour near the one that the word means, float32 [3]."""
    return np.array([part + rng.uniform(-SHADE, SHADE) for part in COLOURS[colour]], np.float32)


def png(picture: Image.Image) -> bytes:
    """A picture as a file."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
