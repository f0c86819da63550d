"""Some images of a data folder in memory, whatever kind of folder it is: to train a tokenizer, to look at codes."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fairseq_mhmoe.data.image_shards import MANIFEST, ImageShards, index_name
from fairseq_mhmoe.data.images import SUFFIXES, BadImage, decode_image

if TYPE_CHECKING:
    from PIL import Image

STREAMS = ("images", "pairs")
HELD_OUT = 0.1  # share of a plain folder of image files
LONGEST = 2  # a panorama's middle is kept, this many times as long as it is high


@dataclass(frozen=True)
class ImageRecord:
    """One image of a prepared folder or a file. name: as messages show it."""

    name: str
    shards: ImageShards | None = None
    index: int = 0
    path: Path | None = None

    def open(self) -> "Image.Image":
        """Decoded, RGB; BadImage or ValueError when it can't be."""
        return self.shards.picture(self.index) if self.shards else decode_image(self.path.read_bytes())


def choose(folder: Path, count: int, held_out: int, seed: int) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Images to train on and others to measure with, chosen at random by seed.

    Args:
        folder: a data folder with images/ or pairs/ in it (splits train and valid), a prepared image folder, or a
            folder with image files at any depth, of which a tenth is held out.
    Returns:
        at most `count` and `held_out` records.
    Raises:
        ValueError: no such folder, or no images in it.
    """
    prepared = [part for part in (folder, *(folder / name for name in STREAMS)) if _is_image_folder(part)]
    rng = random.Random(seed)
    if prepared:
        chosen, others = _draw(prepared, "train", count, rng), _draw(prepared, "valid", held_out, rng)
        if not others:  # the folder was prepared without such a split
            aside = max(1, round(HELD_OUT * len(chosen)))
            chosen, others = chosen[aside:], chosen[:aside][:held_out]
        if not chosen:
            raise ValueError(f"too few images for training in {', '.join(map(str, prepared))}")
        return chosen, others
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower().lstrip(".") in SUFFIXES)
    if len(files) < 2:
        raise ValueError(
            f"{folder}: {len(files)} images; expected a folder that `python -m data_prep.images` has written, one with "
            f"{' or '.join(f'{name}/' for name in STREAMS)} in it, or image files ({', '.join(SUFFIXES)})"
        )
    rng.shuffle(files)
    aside = max(1, round(HELD_OUT * len(files)))
    records = [ImageRecord(str(path.relative_to(folder)), path=path) for path in files]
    return records[aside : aside + count], records[:aside][:held_out]


def _is_image_folder(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and (folder / index_name("train", "images")).is_file()


def _draw(folders: list[Path], split: str, count: int, rng: random.Random) -> list[ImageRecord]:
    """Different images of a split of several folders; an image with several captions has a chance for each."""
    parts = [ImageShards(folder, split) for folder in folders if (folder / index_name(split, "images")).is_file()]
    total = sum(map(len, parts))
    chosen: dict[tuple[int, int], ImageRecord] = {}
    for number in rng.sample(range(total), min(total, count)):
        part = 0
        while number >= len(parts[part]):
            number -= len(parts[part])
            part += 1
        shards = parts[part]
        chosen.setdefault((part, shards.image_row(number)), ImageRecord(shards.name(number), shards, number))
    return list(chosen.values())


def load(records: list[ImageRecord], side: int) -> Iterator[tuple[ImageRecord, Tensor | BadImage]]:
    """Each image as uint8 [3, H, W], made smaller until its shorter side has `side` pixels; or why it can't be."""
    for record in records:
        try:
            image = record.open()
        except BadImage as error:
            yield record, error
            continue
        width, height = image.size
        short = min(width, height)
        if max(width, height) > LONGEST * short:
            long_width, long_height = min(width, LONGEST * short), min(height, LONGEST * short)
            left, top = (width - long_width) // 2, (height - long_height) // 2
            image = image.crop((left, top, left + long_width, top + long_height))
        if short > side:
            image = image.resize([max(side, round(edge * side / short)) for edge in image.size])
        yield record, torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
