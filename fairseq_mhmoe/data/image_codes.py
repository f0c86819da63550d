"""Codes of a prepared folder's images, computed once by `python -m fairseq_mhmoe.cli.image_codes`.

They stand in FOLDER/codes/SPLIT-SIZE-TOKENIZER-INDEX/ (the last two: the first digits of hashes): codes.npy
[images, P] in the order of the split's index, then meta.json, which says that they are complete. They belong to images
as `fit_image` shows them, the middle without augmentation: random crops have other codes.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from fairseq_mhmoe.data.image_shards import ImageShards, index_name, read_image_manifest

CODES = "codes.npy"
META = "meta.json"
FORMAT = 1
SHOWN_DIGITS = 12  # of a hash, in names and messages
CHUNK = 1 << 20


class CachedCodes:
    """The codes of one split of a prepared image folder, mapped into memory.

    Args:
        folder: prepared image folder, as for ImageShards.
        split: its name.
        fingerprint: of the tokenizer that would compute them, `tokenizer.fingerprint()`.
        size: side of the images in pixels.
    Attributes:
        num_codes: of the tokenizer.
        patches: codes of an image.
    Raises:
        ValueError: no codes of this split, tokenizer, image size and content of the folder; it names those that
            are there and the command that makes them.
    """

    def __init__(self, folder: Path, split: str, fingerprint: str, size: int):
        self.shards = ImageShards(folder, split)
        place = codes_folder(folder, split, fingerprint, size)
        meta = read_meta(place)
        if meta is None:
            raise ValueError(_missing(Path(folder), split, fingerprint, size))
        expected = describe(folder, split, fingerprint, size, meta["patch_size"], meta["num_codes"])
        if meta != expected:
            wrong = [name for name in expected if meta.get(name) != expected[name]]
            raise ValueError(f"{place / META} says something else than its name ({', '.join(wrong)}); remove {place}")
        self.num_codes: int = meta["num_codes"]
        self.patches: int = (size // meta["patch_size"]) ** 2
        # an array of no elements can't be mapped
        mode = "r" if self.shards.images else None
        self._codes = np.load(place / CODES, mmap_mode=mode, allow_pickle=False)
        if self._codes.shape != (self.shards.images, self.patches):
            raise ValueError(
                f"{place / CODES} holds {list(self._codes.shape)} codes, expected "
                f"{[self.shards.images, self.patches]}; remove {place} and compute them again"
            )

    def __len__(self) -> int:
        return len(self.shards)

    def codes(self, index: int) -> np.ndarray:
        """Codes of a record's image, int64 [P], row by row."""
        return self._codes[self.shards.image_row(index)].astype(np.int64)


def codes_folder(folder: Path, split: str, fingerprint: str, size: int) -> Path:
    """Where the codes of a split, as it is now, by this tokenizer at this image size stand."""
    index = index_sha256(folder, split)
    return Path(folder) / "codes" / f"{split}-{size}-{fingerprint[:SHOWN_DIGITS]}-{index[:SHOWN_DIGITS]}"


def describe(folder: Path, split: str, fingerprint: str, size: int, patch_size: int, num_codes: int) -> dict:
    """What meta.json says."""
    return {
        "format": FORMAT,
        "split": split,
        "tokenizer": fingerprint,
        "image_size": size,
        "patch_size": patch_size,
        "num_codes": num_codes,
        "index": index_sha256(folder, split),
    }


def read_meta(place: Path) -> dict | None:
    """meta.json of computed codes; None where they are missing or unfinished; ValueError when it is damaged."""
    try:
        meta = json.loads((place / META).read_text(encoding="utf-8"))
        int(meta["patch_size"]), int(meta["num_codes"]), meta["tokenizer"], meta["image_size"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place / META} is damaged ({error!r}); remove {place} and compute the codes again") from None
    return meta


def index_sha256(folder: Path, split: str) -> str:
    """SHA-256 of the list of a split's images, which holds a digest of each: other images, another hash."""
    name = index_name(split, "images")
    listed = read_image_manifest(folder)["splits"].get(split, {}).get("files", {}).get(name, {})
    if "sha256" in listed:
        return listed["sha256"]
    digest = hashlib.sha256()
    with open(Path(folder) / name, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _missing(folder: Path, split: str, fingerprint: str, size: int) -> str:
    metas = [meta for path in sorted(folder.glob(f"codes/*/{META}")) if (meta := read_meta(path.parent))]
    there = [
        f"{meta.get('split')} at {meta['image_size']} px by tokenizer {meta['tokenizer'][:SHOWN_DIGITS]}"
        + ("" if meta.get("index") == index_sha256(folder, split) or meta.get("split") != split else " (older images)")
        for meta in metas
    ]
    return (
        f"{folder} has no codes of split {split} at {size} px by tokenizer {fingerprint[:SHOWN_DIGITS]}; there are: "
        f"{'; '.join(there) or 'none'}. Compute them with `python -m fairseq_mhmoe.cli.image_codes {folder} "
        f"--image-tokenizer FILE --image-size {size}`"
    )
