"""What a prepared image folder is made of: names and types of its files, and its manifest.

The index of a split is a few arrays, mapped into memory and so shared by all processes of a machine:
SPLIT.images.npy (one IMAGE each), SPLIT.names.npy (their names, UTF-8), and with captions SPLIT.rows.npy (record ->
image), SPLIT.starts.npy (record -> its first token; one more at the end) and SPLIT.tokens.npy.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.images.decoding import ImageLimits

MANIFEST = "manifest.json"
FORMAT = 1
KIND = "images"
# Of an image: number of its tar in the manifest, where its bytes are, where its name ends in SPLIT.names.npy, and the
# first bytes of their SHA-256.
DIGEST_BYTES = 16
IMAGE = np.dtype(
    [("tar", "<u4"), ("size", "<u4"), ("offset", "<u8"), ("name_end", "<u8"), ("digest", "u1", (DIGEST_BYTES,))]
)
IMAGE_PARTS = ("images", "names")
CAPTION_PARTS = ("rows", "starts", "tokens")
AGAIN = "prepare the folder again (the same command takes what is still good)"


class Tar(NamedTuple):
    """A file of encoded images, as the manifest describes it. file: in its source's folder. size: in bytes."""

    source: str
    file: str
    path: Path
    size: int
    sha256: str


def index_name(split: str, part: str) -> str:
    """File of a part of a split's index: "train.images.npy"."""
    return f"{split}.{part}.npy"


def list_tars(folder: Path, manifest: dict) -> list[Tar]:
    """The tars that a manifest names, with their places now: relative folders are seen from the prepared one."""
    places = {name: Path(folder, source["folder"]) for name, source in manifest["sources"].items()}
    return [
        Tar(tar["source"], tar["file"], places[tar["source"]] / tar["file"], tar["size"], tar["sha256"])
        for tar in manifest["tars"]
    ]


def read_image_manifest(folder: Path) -> dict:
    """manifest.json of a prepared image folder; ValueError when it is missing, damaged or of another kind."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"no {MANIFEST} in {folder}: no prepared image folder, or not finished; make one with "
            "`python -m data_prep.images --output DIR --source NAME=FILES`"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kind = manifest.get("kind"), manifest["format"]
        if kind == (KIND, FORMAT):
            # what is looked up above
            list_tars(folder, manifest)
            ImageLimits(**manifest["limits"])
            if manifest["dictionary"] is not None:
                manifest["dictionary"]["sha256"]
            for split in manifest["splits"].values():
                for file in split["files"].values():
                    int(file["size"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); {AGAIN}") from None
    if kind != (KIND, FORMAT):
        raise ValueError(f"{path} is of a folder of kind {kind[0]!r}, format {kind[1]}; expected {KIND!r}, {FORMAT}")
    return manifest
