"""What is done for one tar: index it where it is, or pack loose files into it; and which tars there are to do."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from data_prep.files import sha256_of, write_text
from data_prep.images.captions import CaptionEncoder
from data_prep.images.formats import READERS, TARS
from data_prep.images.listings import Entry, folder_of, load_entry
from data_prep.images.pack import PackedRecord, pack_tar
from data_prep.images.settings import ImageInput, ImageSettings
from data_prep.images.shard_index import IndexBuilder, ShardIndex
from data_prep.images.tar_records import read_records
from data_prep.opening import DamagedFile

# To be raised when the same inputs and settings give other bytes than before.
VERSION = 1
LIBRARIES = ("pillow", "sentencepiece", "tiktoken")
# What tells a tar from others before it is read: its size, and so many pieces of it at even distances.
PIECE, PIECES = 1 << 14, 16
PROGRESS_SECONDS = 30
# Settings that decide where packed tars are cut or images go to, but no index of a tar that is there.
LATE_SETTINGS = ("images_per_tar",)


@dataclass(frozen=True)
class Task:
    """One tar. key: of all that decides its index.

    path: the tar, or the plan of what is packed into it (JSON lines of Entry). file: of the tar, seen from its
    source's folder. images: folder of loose files; None for a tar that is there.
    """

    source: str
    format: str
    path: Path
    file: str
    key: str
    split: str | None = None
    images: Path | None = None

    def index(self, output: Path) -> Path:
        """Where its index is when it is done."""
        return output / "work" / "index" / f"{self.key}.idx"

    def is_done(self, output: Path) -> bool:
        """Whether there is an index, and the tar that it is of."""
        return self.index(output).is_file() and (self.images is None or (output / self.source / self.file).is_file())


def plan_tasks(
    inputs: Sequence[ImageInput], settings: ImageSettings, encoder: CaptionEncoder | None, output: Path
) -> tuple[list[Task], dict[str, Path]]:
    """All tars to be, in order, and the folder of each source's tars. Listings are read and cut into plans.

    Raises:
        ValueError: files are missing, named twice, or a listing is broken; a source has both tars and loose files.
    """
    tasks: list[Task] = []
    folders: dict[str, Path] = {}
    decisive = {name: value for name, value in asdict(settings).items() if name not in LATE_SETTINGS}
    content = hashlib.sha256(encoder.tokenizer.content).hexdigest() if encoder else None
    shape = [VERSION, {name: version(name) for name in LIBRARIES}, decisive, content]
    for source in dict.fromkeys(each.source for each in inputs):
        own = [each for each in inputs if each.source == source]
        _check_files(source, own)
        if any(each.format in TARS for each in own):
            folders[source] = Path(os.path.commonpath([p.absolute().parent for each in own for p in each.files]))
            tasks += (_tar_task(each, path, folders[source], shape) for each in own for path in each.files)
        else:
            folders[source] = output.absolute() / source
            tasks += _packing_tasks(own, settings, shape, output)
    return tasks, folders


def _check_files(source: str, inputs: Sequence[ImageInput]) -> None:
    kinds = {each.format in TARS for each in inputs}
    if len(kinds) > 1:
        raise ValueError(f"{source} has both tars and loose files; make two sources of them")
    if missing := [str(path) for each in inputs for path in each.files if not path.exists()]:
        raise ValueError(f"{source}: no such file: {', '.join(missing[:5])}")
    paths = [path.absolute() for each in inputs for path in each.files]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"{source}: {twice} is named twice; name it once, in one split")
    for each in inputs:
        if each.format in TARS and each.images is not None:
            raise ValueError(f"{source}: --images is for listings; the format {each.format} has its pictures in tars")
        if each.format in TARS and (folders := [str(path) for path in each.files if path.is_dir()]):
            raise ValueError(f"{source}: {folders[0]} is a folder; expected tars")


def _tar_task(source: ImageInput, path: Path, folder: Path, shape: list) -> Task:
    file = path.absolute().relative_to(folder).as_posix()
    digest, size = hashlib.sha256(), path.stat().st_size
    with open(path, "rb") as stream:
        for number in range(PIECES):
            stream.seek(max(0, size - PIECE) * number // (PIECES - 1))
            digest.update(stream.read(PIECE))
    key = _hash([*shape, source.format, source.split, file, size, digest.hexdigest()])
    return Task(source.source, source.format, path.absolute(), file, key, source.split)


def _packing_tasks(inputs: Sequence[ImageInput], settings: ImageSettings, shape: list, output: Path) -> Iterator[Task]:
    number = 0
    for source in inputs:
        folder = folder_of(source)
        entries = READERS[source.format](source, settings)
        while part := list(islice(entries, settings.images_per_tar)):
            text = "".join(f"{entry.to_json()}\n" for entry in part)
            key = _hash([*shape, number, text])
            plan = output.absolute() / "work" / "plan" / f"{key}.jsonl"
            if not plan.is_file():
                write_text(plan, text)
            yield Task(source.source, source.format, plan, f"{number:05d}-{key[:8]}.tar", key, images=folder)
            number += 1
    logger.info(f"{inputs[0].source}: {number:,} tars to be packed, of up to {settings.images_per_tar:,} pictures each")
    if not number:
        raise ValueError(
            f"{inputs[0].source}: no pictures in {', '.join(str(p) for each in inputs for p in each.files)}"
        )


def do_task(task: Task, settings: ImageSettings, encoder: CaptionEncoder | None, output: Path) -> None:
    """Index or pack one tar, unless that is done.

    Raises:
        DamagedFile: the tar cannot be read to its end, and damaged files are not allowed.
        RuntimeError: the tar changed while it was read.
    """
    if task.is_done(output):
        return
    start = time.monotonic()
    if task.images is None:
        index = _index_tar(task, settings, encoder)
    else:
        index = pack_tar(output / task.source / task.file, _loose(task, settings), settings, encoder)
    index.save(task.index(output))
    counts, seconds = index.counts(), max(time.monotonic() - start, 1e-3)
    why = "".join(f", {reason} {records:,}" for reason, records in counts["rejected"].items())
    logger.info(
        f"{task.source}/{task.file}: {counts['accepted']:,} of {counts['read']:,} records accepted{why}; "
        f"{counts['read'] / seconds:,.0f}/s"
    )


def _index_tar(task: Task, settings: ImageSettings, encoder: CaptionEncoder | None) -> ShardIndex:
    builder, damage = IndexBuilder(settings, encoder), None
    before = task.path.stat()
    last = time.monotonic()
    with open(task.path, "rb", buffering=1 << 20) as file:
        try:
            for record in read_records(file, task.path, settings, encoder is not None):
                if isinstance(record.content, Exception):
                    builder.reject(record.name, str(record.content), max(1, len(record.captions)))
                elif (good := builder.check(record.name, record.content, record.captions)) is not None:
                    builder.add(record.name, record.content, good, record.offset, task.split)
                if time.monotonic() - last > PROGRESS_SECONDS:
                    last = time.monotonic()
                    logger.info(f"{task.source}/{task.file}: {builder.read:,} records so far")
        except DamagedFile as error:
            if not settings.allow_damaged_files:
                raise DamagedFile(
                    f"{error}, or take the {builder.read:,} records before that (--allow-damaged-files)"
                ) from None
            damage = str(error).removeprefix(f"{task.path}: ")
            logger.warning(str(error))
    described = {"file": task.file, "size": before.st_size, "sha256": sha256_of(task.path)}
    after = task.path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise RuntimeError(f"{task.path} changed while it was read; wait until nothing writes it, and run again")
    return builder.finish(damage, described)


def _loose(task: Task, settings: ImageSettings) -> Iterator[PackedRecord]:
    for line in task.path.read_text(encoding="utf-8").splitlines():
        entry = Entry(**json.loads(line))
        yield entry.name, load_entry(entry, task.images, settings), entry.captions, entry.split


class DoTasks(PipelineStep):
    """datatrove step: the task of this rank's number. dictionary: folder of the captions' tokenizer, or None."""

    name = "🖼 tars of images"
    type = "🖼 - INDEX"

    def __init__(self, tasks: Sequence[Task], settings: ImageSettings, dictionary: str | None, output: str):
        super().__init__()
        self.tasks = tuple(tasks)
        self.settings = settings
        self.dictionary = dictionary
        self.output = output

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Raises what `do_task` raises."""
        encoder = CaptionEncoder(Path(self.dictionary)) if self.dictionary is not None else None
        do_task(self.tasks[rank], self.settings, encoder, Path(self.output))


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
