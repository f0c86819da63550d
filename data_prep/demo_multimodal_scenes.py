"""Scenes to draw, and true captions of them: what is where, on which background. Deterministic by the generator given.

A scene is a plan: `demo_multimodal_drawing` makes the picture of it, and the captions here say only what the plan says.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from data_prep.demo_multimodal_emoji import Emoji

# Colour words and their red, green, blue; a drawing's colour varies a little around them.
COLOURS = {
    "red": (235, 40, 35), "orange": (248, 140, 20), "yellow": (245, 225, 40), "green": (40, 160, 50),
    "teal": (20, 140, 140), "blue": (40, 60, 235), "purple": (130, 50, 170), "pink": (250, 150, 190),
    "brown": (140, 75, 30), "black": (15, 15, 15), "gray": (130, 130, 130), "white": (248, 248, 248),
}  # fmt: skip
BACKGROUNDS = ("solid", "two-tone", "gradient", "noise")
BACKGROUND_WEIGHTS = (5, 2, 2, 2)
# Emoji of one plain outline, which are also drawn in one colour: "a teal circle".
SHAPES = {
    "red circle": "circle", "red square": "square", "red triangle pointed up": "triangle", "red heart": "heart",
    "star": "star", "large orange diamond": "diamond", "cloud": "cloud", "crescent moon": "moon",
}  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below")
# Shares of the kinds of scenes: one emoji, two, and a shape of one colour.
KINDS, KIND_WEIGHTS = ("one", "two", "shape"), (3, 2, 5)
# The n-th of the emoji, in an order that their names decide, is drawn as often as 1 / (n + COMMON) says: as in a
# language, a few words are common and can be learned from a few thousand pictures.
COMMON = 20


@dataclass(frozen=True)
class Thing:
    """An emoji in a picture: centre and size as shares of the side; `colour`: its outline filled with one colour."""

    emoji: Emoji
    x: float
    y: float
    size: float
    colour: str | None = None

    def noun(self, language: str = "en") -> str:
        """ "dog face", or of a shape "teal circle"."""
        if self.colour is not None:
            return f"{self.colour} {SHAPES[self.emoji.name]}"
        return self.emoji.names.get(language, self.emoji.name)


@dataclass(frozen=True)
class Background:
    """What lies behind: one colour, two that meet or fade into each other, or noise around one colour."""

    kind: str
    colours: tuple[str, ...]
    angle: int = 0  # 0: side by side, 1: one above the other

    def words(self) -> str:
        """ "a blue background", "a red and white background"; speckles are said to be there."""
        colours = " and ".join(self.colours)
        return article(f"speckled {colours} background" if self.kind == "noise" else f"{colours} background")


@dataclass(frozen=True)
class Scene:
    """One picture: its background, its things, and the seed of what chance adds (shades, noise)."""

    background: Background
    things: tuple[Thing, ...]
    seed: int
    relation: str | None = None  # of the first thing to the second


def article(noun: str) -> str:
    """ "dog" -> "a dog", "apple" -> "an apple", "grapes" -> "grapes", "face with tears" -> "a face with tears"."""
    head = re.split(" with | of | in | on ", noun)[0]
    if head.endswith("s") and not head.endswith(("ss", "us")):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


class Scenes:
    """Draws up scenes of these emoji by chance.

    Args:
        emoji: what may be in them; those of SHAPES among them are also taken in one colour.
        rng: decides everything.
    """

    def __init__(self, emoji: Sequence[Emoji], rng: random.Random):
        self.emoji, self.rng = sorted(emoji, key=lambda one: hashlib.sha256(one.name.encode()).digest()), rng
        self._weights = [1 / (number + COMMON) for number in range(len(self.emoji))]
        self.shapes = [one for one in emoji if one.name in SHAPES]

    def scene(self) -> Scene:
        """One of a random kind."""
        kind = self.rng.choices(KINDS, KIND_WEIGHTS)[0]
        if kind == "two":
            return self.of([self.emoji_thing(), self.emoji_thing()])
        return self.of([self.shape_thing() if kind == "shape" and self.shapes else self.emoji_thing()])

    def of(self, things: list[Thing], background: Background | None = None) -> Scene:
        """A scene with these one or two things; two are put beside or above each other."""
        background = background or self.background(things)
        seed, relation = self.rng.randrange(1 << 30), None
        if len(things) == 2:
            relation = self.rng.choice(RELATIONS)
            things = self._placed(things, relation)
        return Scene(background, tuple(things), seed, relation)

    def emoji_thing(self) -> Thing:
        """An emoji in its own colours, anywhere."""
        return self._anywhere(self.rng.choices(self.emoji, self._weights)[0])

    def shape_thing(self) -> Thing:
        """A shape of one colour, anywhere."""
        return self._anywhere(self.rng.choice(self.shapes), self.rng.choice(list(COLOURS)))

    def background(self, things: Sequence[Thing]) -> Background:
        """Of colours that no shape in the picture has: it would not be seen."""
        kind = self.rng.choices(BACKGROUNDS, BACKGROUND_WEIGHTS)[0]
        free = [colour for colour in COLOURS if colour not in {thing.colour for thing in things}]
        count = 2 if kind in ("two-tone", "gradient") else 1
        return Background(kind, tuple(self.rng.sample(free, count)), self.rng.randrange(2))

    def _anywhere(self, emoji: Emoji, colour: str | None = None) -> Thing:
        size = self.rng.uniform(0.25, 0.95)
        x, y = (self.rng.uniform(size / 2, 1 - size / 2) for _ in range(2))
        return Thing(emoji, x, y, size, colour)

    def _placed(self, things: list[Thing], relation: str) -> list[Thing]:
        """Two things whose relation is seen at once: each within its half, and shifted a little across."""
        first, second = (
            replace(thing, size=self.rng.uniform(0.3, 0.48), x=0.5, y=self.rng.uniform(0.3, 0.7)) for thing in things
        )
        low, high = self.rng.uniform(0.24, 0.28), self.rng.uniform(0.72, 0.76)
        if relation in ("above", "below"):
            near, far = (replace(thing, x=thing.y, y=place) for thing, place in ((first, low), (second, high)))
        else:
            near, far = (replace(thing, x=place) for thing, place in ((first, low), (second, high)))
        if relation in ("left of", "above"):
            return [near, far]
        swap = (near.x, near.y), (far.x, far.y)
        return [replace(near, x=swap[1][0], y=swap[1][1]), replace(far, x=swap[0][0], y=swap[0][1])]


def place_of(thing: Thing) -> str | None:
    """ "at the top left" for a thing whose centre is far from the middle in both ways, else None."""
    if abs(thing.x - 0.5) < 0.15 or abs(thing.y - 0.5) < 0.15:
        return None
    return f"at the {'top' if thing.y < 0.5 else 'bottom'} {'left' if thing.x < 0.5 else 'right'}"


def size_of(thing: Thing) -> str | None:
    """ "small", "large", or None for what is between."""
    return "small" if thing.size < 0.35 else "large" if thing.size > 0.75 else None


def captions(scene: Scene) -> list[str]:
    """True statements about a scene in English, from the fullest to the shortest."""
    behind = scene.background.words()
    if scene.relation is not None:
        first, second = (article(thing.noun()) for thing in scene.things)
        pair = f"{first} {scene.relation} {second}"
        return [f"{pair} on {behind}", pair, f"{first} and {second}"]
    thing = scene.things[0]
    sized = article(f"{size_of(thing)} {thing.noun()}") if size_of(thing) else article(thing.noun())
    where = f" {place_of(thing)} of" if place_of(thing) else " on"
    found = [f"{sized}{where} {behind}", f"{article(thing.noun())} on {behind}", article(thing.noun())]
    return list(dict.fromkeys(found))


def caption(scene: Scene, rng: random.Random, languages: Sequence[str] = ("en",)) -> str:
    """One of the captions; in other languages than English the names of what is there."""
    language = rng.choice(list(languages))
    if language == "en" or any(thing.colour or language not in thing.emoji.names for thing in scene.things):
        # the fullest most often: every word of it is something to be seen
        found = captions(scene)
        return found[min(int(rng.expovariate(1.0)), len(found) - 1)]
    return ", ".join(thing.noun(language) for thing in scene.things)
