"""Pack images into tars with an index: what programs that draw or select pictures call."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from data_prep.files import replacing, sha256_of
from data_prep.images.captions import CaptionEncoder
from data_prep.images.publish import Published, publish, withdraw
from data_prep.images.settings import ImageSettings
from data_prep.images.shard_index import IndexBuilder, ShardIndex
from data_prep.images.tars import TarWriter
from data_prep.recipe import SPLITS, SourceInfo

# name, encoded file, and one caption, several, or None
Record = tuple[str, bytes, object]
# also: why there is no file; split, or None
PackedRecord = tuple[str, "bytes | Exception", object, "str | None"]


def write_folder(
    output: Path,
    records_by_split: Mapping[str, Iterable[Record]],
    dictionary_folder: Path | None = None,
    settings: ImageSettings | None = None,
    source: str = "images",
    info: SourceInfo | None = None,
) -> dict:
    """Make OUTPUT a prepared image folder of pictures that a program has, and return its manifest.

    Bad records are counted in the manifest, by reason, and listed in OUTPUT/rejected. An image that is in several
    splits stays in test rather than valid, and in valid rather than train.

    Args:
        records_by_split: "train", "valid", "test" -> records (name, encoded image, caption, list of captions or None).
        dictionary_folder: prepared text folder that encodes the captions; None: images without captions.
        source: folder of the tars in OUTPUT. info: its licence and attribution.
    Raises:
        ValueError: an unknown split, captions without a dictionary, or no good image for training.
    """
    settings, output = settings or ImageSettings(), Path(output)
    if unknown := sorted(set(records_by_split) - set(SPLITS)):
        raise ValueError(f"splits {', '.join(unknown)}; expected some of {', '.join(SPLITS)}")
    encoder = CaptionEncoder(dictionary_folder) if dictionary_folder is not None else None
    withdraw(output)
    indexes, hashes = [], []
    for split, records in records_by_split.items():
        iterator, number = iter(records), 0
        while part := list(islice(iterator, settings.images_per_tar)):
            file = f"{split}-{number:05d}.tar"
            index = pack_tar(output / source / file, _checked(part, encoder, split), settings, encoder)
            path = output / "work" / f"{source}-{file}.idx"
            index.save(path)
            indexes.append((source, path))
            hashes.append(index.tar["sha256"])
            number += 1
    described = {source: Published(source, packed=True, formats=("program",), info=info or SourceInfo())}
    fingerprint = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
    manifest = publish(output, output.absolute().name, described, indexes, settings, encoder, fingerprint)
    for _, path in indexes:
        path.unlink()
    return manifest


def pack_tar(
    path: Path, records: Iterable[PackedRecord], settings: ImageSettings, encoder: CaptionEncoder | None
) -> ShardIndex:
    """Write the good images of some records into a tar, with the captions as JSON beside each, and index it.

    A record whose image is an exception (as Unusable) is counted as rejected for that reason.
    """
    builder = IndexBuilder(settings, encoder)
    with replacing(path) as temporary:
        with TarWriter(temporary) as tar:
            for name, content, captions, split in records:
                captions = [] if captions is None else captions if isinstance(captions, (list, tuple)) else [captions]
                if isinstance(content, Exception):
                    builder.reject(name, str(content), max(1, len(captions)))
                    continue
                good = builder.check(name, content, captions)
                if good is None:
                    continue
                offset = tar.add(name, content)
                builder.add(name, content, good, offset, split)
                if good:
                    text = json.dumps({"captions": good}, ensure_ascii=False)
                    tar.add(f"{name.rpartition('.')[0] or name}.json", text.encode())
        described = {"file": path.name, "size": temporary.stat().st_size, "sha256": sha256_of(temporary)}
    return builder.finish(tar=described)


def _checked(records: list[Record], encoder: CaptionEncoder | None, split: str) -> Iterator[PackedRecord]:
    for name, content, captions in records:
        if encoder is None and captions is not None:
            raise ValueError(f"{name} has a caption, but no dictionary encodes captions; give dictionary_folder")
        yield name, content, captions, split
