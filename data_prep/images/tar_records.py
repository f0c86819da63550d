"""Records in tars of pictures: the files of one key are one record, as webdataset and img2dataset write them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from data_prep.images.decoding import SUFFIXES
from data_prep.images.settings import ImageSettings
from data_prep.images.tars import Member, read_members

# text files and JSON beyond this are no captions
MAX_TEXT = 1 << 22
NO_IMAGE, NOT_A_FILE, NOT_DOWNLOADED, BAD_JSON = "no_image", "not_a_file", "not_downloaded", "caption_bad_json"
CAPTION_KEY = "caption"


class Unusable(ValueError):
    """A record that is rejected before its image is looked at; the message starts with the reason, one word."""


@dataclass
class TarRecord:
    """name: of the image's member. content: its bytes, or why there are none. captions: str or bytes, as found."""

    name: str
    offset: int
    content: bytes | Unusable
    captions: list = field(default_factory=list)


def read_records(file: BinaryIO, path: Path, settings: ImageSettings, captions: bool) -> Iterator[TarRecord]:
    """The records of a tar, in its order; files of one key (name without ending) must stand together.

    What has no image is a record with an Unusable. Without `captions`, only the images are read.

    Raises:
        DamagedFile: as `read_members`; what stands before the damage comes first.
    """
    group: list[Member] = []
    members = read_members(file, path)
    damage = None
    while True:
        try:
            member = next(members, None)
        except ValueError as error:
            member, damage = None, error
        if group and (member is None or _key(member.name) != _key(group[0].name)):
            yield from _records_of(file, group, settings, captions)
            group = []
        if member is None:
            break
        group.append(member)
    if damage is not None:
        raise damage


def captions_of_json(content: bytes, key: str) -> list:
    """The caption, or the list of captions, under a key of img2dataset's JSON; [] where it has none.

    Raises:
        Unusable: no JSON object, or one of an image that was not downloaded.
    """
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"{BAD_JSON}: {error}") from None
    if not isinstance(fields, dict):
        raise Unusable(f"{BAD_JSON}: {type(fields).__name__} instead of an object")
    check_status(fields)
    found = fields.get(key)
    return found if isinstance(found, list) else [] if found is None else [found]


def check_status(fields: dict) -> None:
    """Unusable where img2dataset says that it could not download the image."""
    if fields.get("status", "success") != "success":
        raise Unusable(f"{NOT_DOWNLOADED}: {fields['status']} {fields.get('error_message', '')}"[:200])


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)


def _ending(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[2].lower()


def _records_of(file: BinaryIO, group: list[Member], settings: ImageSettings, captions: bool) -> Iterator[TarRecord]:
    images = [member for member in group if _ending(member.name) in SUFFIXES]
    if not images:
        why = f"{NO_IMAGE}: {', '.join(_ending(member.name) for member in group[:5])}"
        yield TarRecord(group[0].name, group[0].offset, Unusable(why))
    found, problem = [], None
    if captions and images:
        try:
            found = _captions(file, group, settings)
        except Unusable as error:
            problem = error
    for image in images:
        yield TarRecord(image.name, image.offset, problem or _content(file, image, settings), found)


def _content(file: BinaryIO, image: Member, settings: ImageSettings) -> bytes | Unusable:
    if not image.regular:
        return Unusable(f"{NOT_A_FILE}: a link, device or sparse file")
    if image.size > settings.max_bytes:
        return Unusable(f"too_many_bytes: {image.size:,} bytes, at most {settings.max_bytes:,}")
    return _read(file, image)


def _captions(file: BinaryIO, group: list[Member], settings: ImageSettings) -> list:
    texts = {_ending(member.name): member for member in group if member.regular and member.size <= MAX_TEXT}
    found = []
    if "json" in texts:
        found = captions_of_json(_read(file, texts["json"]), settings.caption_key or CAPTION_KEY)
    if "txt" in texts and settings.caption_key is None:
        found = [_read(file, texts["txt"])]
    return found


def _read(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)
