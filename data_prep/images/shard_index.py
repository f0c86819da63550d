"""The index of one tar: its good images, their captions, and what was rejected; one file, the mark that it is done."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_prep.files import replacing
from data_prep.images.captions import BadCaption, CaptionEncoder, clean_caption
from data_prep.images.decoding import BadImage, check_image
from data_prep.images.layout import DIGEST_BYTES, IMAGE
from data_prep.images.settings import ImageSettings
from data_prep.recipe import SPLITS

NO_CAPTION = "no_caption"
# captions that are encoded at once
BATCH = 1000
ARRAYS = ("images", "splits", "names", "rows", "starts", "tokens", "rejected")


def split_of(digest: bytes, settings: ImageSettings) -> str:
    """Split of an image: the same for ever for the same seed and bytes, so its copies stay together."""
    salted = hashlib.sha256(f"{settings.seed}\t".encode() + digest).digest()
    position = int.from_bytes(salted[:8], "big") / 2**64
    if position < settings.valid_share:
        return "valid"
    return "test" if position < settings.valid_share + settings.test_share else "train"


@dataclass
class ShardIndex:
    """What was found in one tar.

    arrays: images [I] IMAGE (tar 0, name_end within `names`), splits [I] number in SPLITS, names UTF-8 bytes, and with
    captions rows [R], starts [R + 1], tokens. read: records, accepted or rejected. rejected: name of the image and
    reason of each. damage: where the tar could not be read any further.
    """

    arrays: dict[str, np.ndarray]
    read: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)
    damage: str | None = None
    tar: dict | None = None

    def counts(self) -> dict:
        """{"read", "accepted", "rejected": {reason: records}}."""
        reasons = Counter(reason.partition(":")[0] for _, reason in self.rejected)
        return {
            "read": self.read,
            "accepted": self.read - len(self.rejected),
            "rejected": dict(sorted(reasons.items())),
        }

    def save(self, path: Path) -> None:
        """Write PATH; from then on the tar counts as done."""
        header = json.dumps({**self.counts(), "damage": self.damage, "tar": self.tar}).encode()
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, np.frombuffer(header, np.uint8), allow_pickle=False)
            rejected = np.frombuffer(json.dumps(self.rejected).encode(), np.uint8)
            for array in (*(self.arrays[name] for name in ARRAYS[:-1]), rejected):
                np.save(file, array, allow_pickle=False)


def load_index(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """What `ShardIndex.save` wrote: {"read", "accepted", "rejected", "damage", "tar"} and the arrays."""
    with open(path, "rb") as file:
        header = json.loads(np.load(file, allow_pickle=False).tobytes())
        return header, {name: np.load(file, allow_pickle=False) for name in ARRAYS}


def load_rejected(arrays: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    """Name of the image and reason of each record that was not taken."""
    return [tuple(record) for record in json.loads(arrays["rejected"].tobytes())]


class IndexBuilder:
    """Takes the records of one tar in their order and makes a ShardIndex.

    Args:
        encoder: of captions; None: images without captions.
    """

    def __init__(self, settings: ImageSettings, encoder: CaptionEncoder | None):
        self.settings = settings
        self.encoder = encoder
        self.rejected: list[tuple[str, str]] = []
        self.read = 0
        self._images: list[tuple] = []
        self._splits: list[int] = []
        self._names = bytearray()
        self._rows: list[int] = []
        self._captions: list[str] = []
        self._tokens: list[np.ndarray] = []

    def reject(self, name: str, reason: str, records: int = 1) -> None:
        """Count records that there are no images of."""
        self.read += records
        self.rejected += [(name, reason)] * records

    def check(self, name: str, content: bytes, captions: Sequence[object]) -> list[str] | None:
        """Look at an image and its captions: those that are good, or None when nothing is; what is bad is counted.

        Without an encoder, captions are not looked at and the list is empty.
        """
        records = max(1, len(captions)) if self.encoder else 1
        try:
            check_image(content, self.settings.limits)
        except BadImage as error:
            self.reject(name, str(error), records)
            return None
        if self.encoder is None:
            self.read += 1
            return []
        good = []
        for caption in captions:
            try:
                good.append(clean_caption(caption, self.settings.max_caption_chars))
            except BadCaption as error:
                self.reject(name, str(error))
        if not captions:
            self.reject(name, NO_CAPTION)
        self.read += len(good)
        return good or None

    def add(self, name: str, content: bytes, captions: Sequence[str], offset: int, split: str | None = None) -> None:
        """Take an image that `check` found good, with what it returned. offset: of its bytes in the tar."""
        digest = hashlib.sha256(content).digest()[:DIGEST_BYTES]
        self._names += name.encode("utf-8", "replace")
        self._rows += [len(self._images)] * len(captions)
        self._images.append((0, len(content), offset, len(self._names), np.frombuffer(digest, np.uint8)))
        self._splits.append(SPLITS.index(split or split_of(digest, self.settings)))
        self._captions += captions
        if len(self._captions) >= BATCH:
            self._encode()

    def finish(self, damage: str | None = None, tar: dict | None = None) -> ShardIndex:
        """The index of all that was added. tar: {"file", "size", "sha256"}."""
        self._encode()
        sizes = [len(tokens) for tokens in self._tokens]
        arrays = {
            "images": np.array(self._images, IMAGE),
            "splits": np.array(self._splits, np.uint8),
            "names": np.frombuffer(bytes(self._names), np.uint8),
            "rows": np.array(self._rows, np.uint32),
            "starts": np.concatenate([[0], np.cumsum(sizes, dtype=np.uint64)]).astype(np.uint64),
            "tokens": np.concatenate([np.zeros(0, np.int32), *self._tokens]).astype(np.int32),
        }
        return ShardIndex(arrays, self.read, self.rejected, damage, tar)

    def _encode(self) -> None:
        if self._captions:
            self._tokens += [tokens.astype(np.int32) for tokens in self.encoder.encode(self._captions)]
            self._captions = []
