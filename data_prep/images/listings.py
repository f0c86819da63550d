"""Loose picture files: the lists of them that data sets come with, as entries that are packed into tars."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from data_prep.images.decoding import SUFFIXES
from data_prep.images.settings import ImageInput, ImageSettings
from data_prep.images.tar_records import CAPTION_KEY, Unusable, captions_of_json, check_status

MISSING, OUTSIDE, NOT_A_FILE, UNREADABLE = "missing_file", "outside_folder", "not_a_file", "unreadable"


@dataclass
class Entry:
    """A picture that a listing names.

    name: for messages and in the tar. places: where it may be, seen from the folder of pictures; the first that
    exists is taken. captions: as found. split: of the listing, or None. reason: why it is none, where it is a bad line.
    """

    name: str
    places: list[str] = field(default_factory=list)
    captions: list = field(default_factory=list)
    split: str | None = None
    reason: str | None = None

    def to_json(self) -> str:
        """One line of a plan."""
        return json.dumps(asdict(self))


Reader = Callable[[ImageInput, ImageSettings], Iterator[Entry]]


def load_entry(entry: Entry, folder: Path, settings: ImageSettings) -> bytes | Unusable:
    """The bytes of an entry's picture, or why there are none."""
    if entry.reason:
        return Unusable(entry.reason)
    problem = f"{MISSING}: {', '.join(entry.places[:3])} in {folder.name}"
    for place in entry.places:
        path = Path(os.path.normpath(folder / place))
        if not path.is_relative_to(os.path.normpath(folder)):
            problem = f"{OUTSIDE}: {place} is not in {folder.name}"
            continue
        try:
            if not path.exists():
                continue
            if not path.is_file():
                return Unusable(f"{NOT_A_FILE}: {place}")
            if path.stat().st_size > settings.max_bytes:
                return Unusable(f"too_many_bytes: {path.stat().st_size:,} bytes, at most {settings.max_bytes:,}")
            return path.read_bytes()
        except (OSError, ValueError) as error:  # no permission, a name that no file can have
            problem = f"{UNREADABLE}: {error}"
    return Unusable(problem)


def read_folder(source: ImageInput, settings: ImageSettings) -> Iterator[Entry]:
    """All pictures below folders, by path; captions from .txt or .json files beside them, as img2dataset's."""
    base = folder_of(source)
    for root in source.files:
        for path in walk(root.absolute()):
            if path.suffix[1:].lower() not in SUFFIXES:
                continue
            relative = path.relative_to(base).as_posix()
            entry = Entry(relative, [relative], split=source.split)
            try:
                entry.captions = _beside(path, settings)
            except Unusable as error:
                entry.reason = str(error)
            yield entry


def read_json(path: Path, hook: Callable | None = None) -> object:
    """Content of a JSON file; ValueError that names it when it is none."""
    try:
        return json.loads(path.read_bytes(), object_hook=hook)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}; get the file again") from None


def walk(root: Path) -> Iterator[Path]:
    """All files below a folder, links followed but not in circles, in the order of their names."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_raise):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        yield from (Path(folder, file) for file in sorted(files))


def is_url(reference: str) -> bool:
    """Whether a picture is named by its address."""
    return "://" in reference


class Downloads:
    """Files below a folder that img2dataset (output format "files") has downloaded, by their addresses.

    The addresses stay in memory: about 200 bytes each. Where a folder has no JSON files, a picture of the address's
    last part is looked for.
    """

    def __init__(self, folder: Path):
        self._files: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        for path in walk(folder):
            if path.suffix == ".json":
                self._note(path, folder)

    def entry(self, url: str, captions: list, split: str | None) -> Entry:
        """The entry of a picture that is named by its address."""
        if url in self._failed:
            return Entry(url, reason=self._failed[url], captions=captions)
        file = self._files.get(url) or unquote(PurePosixPath(urlsplit(url).path).name)
        return Entry(file or url, [file] if file else [], captions, split)

    def _note(self, path: Path, folder: Path) -> None:
        try:
            fields = json.loads(path.read_bytes())
            url = fields["url"]
            check_status(fields)
        except Unusable as error:
            self._failed[url] = str(error)
            return
        except (ValueError, KeyError, TypeError, RecursionError):
            return  # a JSON file of something else
        for suffix in SUFFIXES:
            picture = path.with_suffix(f".{suffix}")
            if picture.is_file():
                self._files[url] = picture.relative_to(folder).as_posix()
                return


class Pictures:
    """Makes entries of references: addresses by what was downloaded, others as paths in the folder of pictures."""

    def __init__(self, source: ImageInput):
        self._split = source.split
        self._folder = folder_of(source)
        self._downloads: Downloads | None = None

    def entry(self, reference: str, captions: list) -> Entry:
        """Of one picture; captions as found."""
        if not is_url(reference):
            return Entry(reference, [reference], captions, self._split)
        if self._downloads is None:
            self._downloads = Downloads(self._folder)
        return self._downloads.entry(reference, captions, self._split)


def folder_of(source: ImageInput) -> Path:
    """Where the pictures are: --images, else beside the listing; of folders, what they have in common.

    Raises:
        ValueError: that is no folder, or --images for folders.
    """
    if source.format == "folder":
        if source.images or not all(path.is_dir() for path in source.files):
            raise ValueError(f"{source.source}: format folder takes folders of pictures in --source, and no --images")
        return Path(os.path.commonpath([path.absolute() for path in source.files]))
    folder = source.images or source.files[0].parent
    if not folder.is_dir():
        raise ValueError(f"{source.source}: no folder of pictures {folder}; give --images {source.source}=FOLDER")
    return folder.absolute()


def merged(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Entries in which neighbours of one picture have become one with all their captions."""
    last = None
    for entry in entries:
        same = last is not None and not (last.reason or entry.reason)
        if same and (last.places, last.split) == (entry.places, entry.split):
            last.captions += entry.captions
            continue
        if last is not None:
            yield last
        last = entry
    if last is not None:
        yield last


def _beside(path: Path, settings: ImageSettings) -> Sequence:
    text, described = path.with_suffix(".txt"), path.with_suffix(".json")
    found = []
    if described.is_file():
        found = captions_of_json(described.read_bytes(), settings.caption_key or CAPTION_KEY)
    if text.is_file() and settings.caption_key is None:
        found = [text.read_bytes().decode("utf-8", "surrogateescape")]
    return found


def _raise(error: OSError) -> None:
    raise error
