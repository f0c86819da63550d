"""Random access to pictures in tars, and to their captions as numbers, by the index of a prepared image folder."""

import hashlib
import os
from collections import OrderedDict
from functools import cached_property
from pathlib import Path

import numpy as np

from data_prep.images.decoding import ImageLimits, decode_image
from data_prep.images.layout import (
    AGAIN,
    CAPTION_PARTS,
    DIGEST_BYTES,
    MANIFEST,
    index_name,
    list_tars,
    read_image_manifest,
)

OPEN_TARS = 64


class ImageShards:
    """One split of a prepared image folder. A record is an image, or with captions an image and one of its captions.

    Reads are by `pread` through a few open files, so that processes forked off may go on with them; nothing but the
    index stays in memory. Copies for other processes (pickle) open the folder anew.

    Attributes:
        has_captions: whether records have captions.
        caption_sizes: [records] tokens of each, without <s> and </s>, int32; None without captions.
        dictionary_sha256: of the dict.txt that captions were encoded with; None without captions.
        limits: of the preparation; `decode_image(shards.image(i), shards.limits)` accepts what it accepted.
        tars: in the order in which the images stand.
    Raises:
        ValueError: no prepared image folder, no such split, or a file is not what the manifest says.
    """

    def __init__(self, folder: Path, split: str):
        self.folder, self.split = Path(folder), split
        self.manifest = read_image_manifest(self.folder)
        splits = self.manifest["splits"]
        if split not in splits:
            raise ValueError(f"no split {split!r} in {self.folder}; there are {', '.join(splits) or 'none'}")
        self.has_captions: bool = self.manifest["dictionary"] is not None
        self.dictionary_sha256: str | None = self.manifest["dictionary"]["sha256"] if self.has_captions else None
        self.limits = ImageLimits(**self.manifest["limits"])
        self.tars = list_tars(self.folder, self.manifest)
        self._check_index()
        self._images = self._map("images")
        self._names = self._map("names")
        self._rows, self._starts, self._tokens = map(self._map, CAPTION_PARTS if self.has_captions else [None] * 3)
        self._check_tars()
        self._files: OrderedDict[int, int] = OrderedDict()

    def __reduce__(self):
        return ImageShards, (self.folder, self.split)

    def __len__(self) -> int:
        return len(self._rows if self.has_captions else self._images)

    def __del__(self, close=os.close):  # bound here: the module may be gone when a program ends
        for descriptor in getattr(self, "_files", {}).values():
            close(descriptor)

    @property
    def images(self) -> int:
        """Number of different images; with captions, records may share one."""
        return len(self._images)

    @cached_property
    def caption_sizes(self) -> np.ndarray | None:
        """[records] tokens of each caption, int32; None without captions."""
        return np.diff(self._starts).astype(np.int32) if self.has_captions else None

    def image_row(self, index: int) -> int:
        """Number of a record's image, from 0 to `images`; records of one image have the same. IndexError outside."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return int(self._rows[index]) if self.has_captions else int(index)

    def image(self, index: int) -> bytes:
        """A record's encoded image; ValueError with tar and member when it is cut off or has changed."""
        entry = self._images[self.image_row(index)]
        size = int(entry["size"])
        content = os.pread(self._open(int(entry["tar"])), size, int(entry["offset"]))
        if len(content) < size:
            raise ValueError(f"{self._where(index)}: the tar ends after {len(content)} of {size} bytes; {AGAIN}")
        if hashlib.sha256(content).digest()[:DIGEST_BYTES] != entry["digest"].tobytes():
            raise ValueError(f"{self._where(index)}: the image has changed since it was indexed; {AGAIN}")
        return content

    def picture(self, index: int):
        """A record's image, decoded: PIL.Image.Image, RGB, upright; ValueError as `image`, BadImage as decode_image."""
        return decode_image(self.image(index), self.limits)

    def caption(self, index: int) -> np.ndarray:
        """[tokens] of a record's caption, int64, without <s> and </s>; ValueError where there are no captions."""
        if not self.has_captions:
            raise ValueError(f"{self.folder} has images without captions; prepare it with --dictionary for captions")
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return self._tokens[int(self._starts[index]) : int(self._starts[index + 1])].astype(np.int64)

    def name(self, index: int) -> str:
        """Where a record's image is: "cc12m/00001.tar: 000010021.jpg"."""
        row = self.image_row(index)
        tar = self.tars[int(self._images[row]["tar"])]
        start = int(self._images[row - 1]["name_end"]) if row else 0
        name = self._names[start : int(self._images[row]["name_end"])].tobytes().decode("utf-8", "replace")
        return f"{tar.source}/{tar.file}: {name}"

    def _where(self, index: int) -> str:
        tar = self.tars[int(self._images[self.image_row(index)]["tar"])]
        return f"{self.name(index)} ({tar.path})"

    def _map(self, part: str | None) -> np.ndarray | None:
        if part is None:
            return None
        path = self.folder / index_name(self.split, part)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError:
            # an array of no elements can't be mapped
            return np.load(path, allow_pickle=False)

    def _check_index(self) -> None:
        for name, file in self.manifest["splits"][self.split]["files"].items():
            path = self.folder / name
            size = path.stat().st_size if path.is_file() else None
            if size != file["size"]:
                found = "is missing" if size is None else f"has {size} bytes"
                raise ValueError(f"{path} {found}, the manifest says {file['size']}; {AGAIN}")

    def _check_tars(self) -> None:
        for tar in self.tars:
            size = tar.path.stat().st_size if tar.path.is_file() else None
            if size != tar.size:
                found = "is missing" if size is None else f"has {size} bytes"
                raise ValueError(
                    f"{tar.path} {found}, {self.folder / MANIFEST} says {tar.size}; where the tars of source "
                    f"{tar.source!r} are now elsewhere, link them to that place, else {AGAIN}"
                )

    def _open(self, number: int) -> int:
        if number in self._files:
            self._files.move_to_end(number)
            return self._files[number]
        if len(self._files) >= OPEN_TARS:
            os.close(self._files.popitem(last=False)[1])
        self._files[number] = os.open(self.tars[number].path, os.O_RDONLY | os.O_CLOEXEC)
        return self._files[number]
