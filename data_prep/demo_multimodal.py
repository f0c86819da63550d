"""Prepare the image-text demonstration: drawn emoji with captions, photos, questions on images; all out of packages.

python -m data_prep.demo_multimodal --output data/demo-multimodal
    text/ pairs/ images/ for pre-training; vqa.*, nlvr2.*, captioning.* and their images for fine-tuning
python -m data_prep.demo_multimodal --output data/demo-multimodal-14 --languages en de fr es ja zh
    some captions are the emoji's names in these languages

Validation and test see other pictures than training: drawings are drawn anew, a photo is in one split as a whole, and
easy-VQA's test images and questions are in no file that is trained on. Emoji are words of this small world: all
splits use the same ones.
"""

import argparse
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from datatrove.utils.logging import logger

from data_prep.demo_english import find_dump
from data_prep.demo_multimodal_drawing import Draughtsman, png
from data_prep.demo_multimodal_emoji import LANGUAGES, find_font, read_emoji
from data_prep.demo_multimodal_folders import pack_pictures, prepare_text
from data_prep.demo_multimodal_indexes import answer_prior, write_captions, write_statements, write_vqa
from data_prep.demo_multimodal_photos import EasyVQA, crop, read_easy_vqa, read_photos
from data_prep.demo_multimodal_scenes import Scenes, caption
from data_prep.fetch import FetchError
from data_prep.files import copy, write_text
from data_prep.recipe import SPLITS

# To be raised when the same settings give other files than before.
VERSION = 2
STATEMENT_EMOJI = 60  # few enough that statements on them can be learned from a few thousand


@dataclass(frozen=True)
class Amounts:
    """How much is made. Of what is not named here, validation and test have `held_out` each."""

    pairs: int = 20000
    drawings: int = 3000  # without captions
    crops: int = 3000  # of photos
    captions: int = 1000  # drawings of the captioning index
    statements: int = 2000
    held_out: int = 400
    side: int = 64  # pixels
    vocab_size: int = 3000
    seed: int = 0

    def __post_init__(self):
        for name, value in asdict(self).items():
            if name != "seed" and value < 1:
                raise ValueError(f"{name} is {value}; expected 1 or more")
        if self.side < 16 or self.side % 2:
            raise ValueError(f"side is {self.side}; expected an even number of 16 pixels or more")

    def of(self, name: str, split: str) -> int:
        """How many of them a split gets."""
        return getattr(self, name) if split == "train" else self.held_out


class Makers:
    """What the parts of the demonstration are made with: emoji, font, photos, easy-VQA, and chance."""

    def __init__(self, cache: Path, amounts: Amounts, languages: tuple[str, ...]):
        self.cache, self.amounts, self.languages = cache, amounts, languages
        self.emoji = read_emoji(cache, languages)
        self.draughtsman = Draughtsman(find_font(cache), amounts.side)
        self.photos = read_photos(cache)
        self.easy = read_easy_vqa(cache)

    def chance(self, part: str, split: str) -> random.Random:
        """Of one part and split: no part depends on another, or on how many there are of it."""
        return random.Random(f"{self.amounts.seed} {part} {split}")

    def pairs(self, split: str) -> Iterator[tuple[bytes, str]]:
        """(picture, caption) of a split."""
        rng = self.chance("pairs", split)
        scenes = Scenes(self.emoji, rng)
        for _ in range(self.amounts.of("pairs", split)):
            scene = scenes.scene()
            yield png(self.draughtsman.draw(scene)), caption(scene, rng, self.languages)

    def images(self, split: str) -> Iterator[bytes]:
        """Pictures without captions: drawings, crops of photos, and easy-VQA's."""
        rng = self.chance("images", split)
        scenes = Scenes(self.emoji, rng)
        for _ in range(self.amounts.of("drawings", split)):
            yield png(self.draughtsman.draw(scenes.scene()))
        photos = list(self.photos[split].values())
        for number in range(self.amounts.of("crops", split)):
            yield png(crop(photos[number % len(photos)], self.amounts.side, rng))
        for _, content in self.easy.images_of(split):
            yield content


def make(output: Path, cache: Path, amounts: Amounts, languages: tuple[str, ...], workers: int | None = None) -> dict:
    """Make the folder and return what demo.json says of it; what is there already is used again.

    Raises:
        FetchError: a package could not be fetched. ValueError: the settings can't be.
    """
    settings = {"version": VERSION, "amounts": asdict(amounts), "languages": list(languages)}
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    done = output / "demo.json"
    if done.exists() and (found := json.loads(done.read_text(encoding="utf-8")))["fingerprint"] == fingerprint:
        logger.info(f"{output} is complete")
        return found
    done.unlink(missing_ok=True)
    makers, raw = Makers(cache, amounts, languages), output / "work" / fingerprint[:16]
    logger.info("drawing pictures with captions")
    pairs = {split: list(makers.pairs(split)) for split in SPLITS}
    texts = {split: [text for _, text in records] for split, records in pairs.items()}
    prepare_text(output / "text", raw, find_dump(cache, None), texts, amounts.vocab_size, workers)
    for name in ("dict.txt", "spm.model"):
        copy(output / "text" / name, output / name)
    logger.info("packing pictures")
    images = {split: ((content, None) for content in makers.images(split)) for split in SPLITS}
    counts = {
        "pairs": pack_pictures(output / "pairs", pairs, output / "text"),
        "images": pack_pictures(output / "images", images, None),
    }
    counts |= write_indexes(output, makers)
    found = {"fingerprint": fingerprint, **settings, "emoji": len(makers.emoji), "counts": counts}
    found["answer_prior"] = answer_prior(makers.easy)
    os.sync()  # thousands of small pictures, and then the file that says that they are there
    write_text(done, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found


def write_indexes(output: Path, makers: Makers) -> dict[str, dict[str, int]]:
    """The files of the fine-tuning tasks; returns how many records each split has."""
    easy: EasyVQA = makers.easy
    counts = {"vqa": write_vqa(output, easy), "captioning": {}, "nlvr2": {}}
    few = makers.chance("emoji", "statements").sample(makers.emoji, min(STATEMENT_EMOJI, len(makers.emoji)))
    for split in SPLITS:
        scenes = Scenes(makers.emoji, makers.chance("captions", split))
        drawn = [scenes.scene() for _ in range(makers.amounts.of("captions", split))]
        counts["captioning"][split] = write_captions(output, split, drawn, makers.draughtsman)
        scenes = Scenes(few, makers.chance("nlvr2", split))
        count = makers.amounts.of("statements", split)
        counts["nlvr2"][split] = write_statements(output, split, count, scenes, makers.draughtsman)
    return counts


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.demo_multimodal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to prepare, data/demo-multimodal")
    parser.add_argument("--cache", type=Path, help="where packages are looked for and put (default: OUTPUT/work/cache)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    parser.add_argument(
        "--languages", nargs="+", default=["en"], metavar="L", help=f"of captions, some of {' '.join(LANGUAGES)}"
    )
    meanings = {
        "pairs": "drawings with captions",
        "drawings": "drawings without captions",
        "crops": "of photos",
        "captions": "drawings of the captioning index",
        "statements": "on two drawings",
        "held_out": "of each of these for validation and for test",
        "side": "of the pictures, pixels",
        "vocab_size": "pieces",
        "seed": "of everything",
    }
    for name, default in asdict(Amounts()).items():
        text = f"{meanings[name]} (default: %(default)s)"
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=text)
    return parser.parse_args(words)


def main(arguments: list[str] | None = None) -> None:
    """Command line; exits with status 1 and one line when something is wrong."""
    options, start = parse_arguments(arguments), time.monotonic()
    try:
        amounts = Amounts(**{name: getattr(options, name) for name in asdict(Amounts())})
        cache = options.cache or options.output / "work/cache"
        found = make(options.output, cache, amounts, tuple(dict.fromkeys(options.languages)), options.workers)
    except (FetchError, RuntimeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    counts = ", ".join(f"{name} {splits['train']}" for name, splits in found["counts"].items())
    print(f"{options.output}: {found['emoji']} emoji; training {counts}; {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
