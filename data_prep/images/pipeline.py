"""Prepare images and captions: what is done is left alone, what was begun is gone on with; the manifest comes last."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from data_prep.executors import Executor, Stage, run_stages
from data_prep.files import locked, sha256_of
from data_prep.images.captions import CaptionEncoder
from data_prep.images.formats import FORMATS, TARS
from data_prep.images.layout import list_tars, read_image_manifest
from data_prep.images.publish import Published, publish
from data_prep.images.settings import ImageInput, ImageSettings
from data_prep.images.tasks import VERSION, DoTasks, Task, plan_tasks
from data_prep.manifest import describe_file
from data_prep.recipe import SourceInfo
from data_prep.steps import AfterStage

INDEX, PUBLISH = "index", "publish"


def prepare_images(
    inputs: Sequence[ImageInput],
    output: Path,
    settings: ImageSettings | None = None,
    dictionary: Path | None = None,
    info: Mapping[str, SourceInfo] | None = None,
    name: str | None = None,
    executor: Executor | None = None,
) -> dict:
    """Make OUTPUT a prepared image folder and return its manifest; what is already there is used again.

    The result is the same, byte for byte, however often and wherever earlier calls were interrupted, and whatever
    executor (default: local, all cores) runs the tasks: one for each tar. With Slurm, or in a dry run: submits or
    prints the stages, unless the folder is complete, and returns {}.

    Args:
        dictionary: prepared text folder that encodes the captions; None: images without captions.
        info: source -> its licence and attribution. name: of the collection; default: that of the folder.
    Raises:
        ValueError: an input is damaged, missing or of another layout, or no image for training was accepted.
        RuntimeError: another call works on the same folder, or tasks failed on a cluster.
    """
    settings, executor, info = settings or ImageSettings(), executor or Executor(), dict(info or {})
    output = Path(output).absolute()
    _check(inputs, dictionary, info)
    encoder = CaptionEncoder(dictionary) if dictionary is not None else None
    with locked(output / "work"):
        tasks, folders = plan_tasks(inputs, settings, encoder, output)
        sources = {source: _published(source, folders[source], inputs, info, output) for source in folders}
        described = {source: asdict(published) for source, published in sources.items()}
        late = [asdict(settings), encoder.describe() if encoder else None, name or output.name]
        keys = [task.key for task in tasks]
        fingerprint = hashlib.sha256(json.dumps([VERSION, keys, described, late]).encode()).hexdigest()
        if manifest := read_complete(output, fingerprint):
            logger.info(f"{output} is complete")
            return manifest
        todo = [task for task in tasks if not task.is_done(output)]
        logger.info(f"{len(tasks):,} tars, {len(tasks) - len(todo):,} of them done")
        folder = str(dictionary.absolute()) if dictionary is not None else None
        last = PublishFolder(output, name or output.name, sources, tasks, settings, folder, fingerprint)
        logs = output / "work" / "logs"
        stages = [Stage(INDEX, [DoTasks(todo, settings, folder, str(output))], len(todo), again=True)] if todo else []
        check = [AfterStage(str(logs / INDEX), len(todo))] if todo else []
        run_stages([*stages, Stage(PUBLISH, [*check, last], 1, again=True)], logs, executor)
    if executor.kind == "slurm" or executor.dry_run:
        return {}
    return read_image_manifest(output)


class PublishFolder(PipelineStep):
    """datatrove step: the prepared folder out of the indexes of all tars; one task."""

    name = "📦 prepared image folder"
    type = "📦 - PUBLISH"

    def __init__(
        self,
        output: Path,
        name: str,
        sources: Mapping[str, Published],
        tasks: Sequence[Task],
        settings: ImageSettings,
        dictionary: str | None,
        fingerprint: str,
    ):
        super().__init__()
        self.output = str(output)
        self.collection = name
        self.sources = dict(sources)
        self.tasks = tuple(tasks)
        self.settings = settings
        self.dictionary = dictionary
        self.fingerprint = fingerprint

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Write all files; the manifest comes last."""
        output = Path(self.output)
        encoder = CaptionEncoder(Path(self.dictionary)) if self.dictionary is not None else None
        indexes = [(task.source, task.index(output)) for task in self.tasks]
        manifest = publish(output, self.collection, self.sources, indexes, self.settings, encoder, self.fingerprint)
        for split, total in manifest["splits"].items():
            logger.info("{}: {records:,} records, {images:,} images, {tokens:,} tokens".format(split, **total))


def read_complete(output: Path, fingerprint: str) -> dict | None:
    """The folder's manifest if it was made with this fingerprint, every index has its hash and every tar its size."""
    try:
        manifest = read_image_manifest(output)
        if manifest["fingerprint"] != fingerprint:
            return None
        files = {name: file["sha256"] for split in manifest["splits"].values() for name, file in split["files"].items()}
        files |= {
            manifest[part]["file"]: manifest[part]["sha256"] for part in ("tokenizer", "dictionary") if manifest[part]
        }
        complete = all(sha256_of(output / name) == digest for name, digest in files.items())
        complete = complete and all(tar.path.stat().st_size == tar.size for tar in list_tars(output, manifest))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None  # missing, damaged or foreign: prepare again
    return manifest if complete else None


def _check(inputs: Sequence[ImageInput], dictionary: Path | None, info: Mapping[str, SourceInfo]) -> None:
    if not inputs:
        raise ValueError("no sources; name some")
    names = {each.source for each in inputs}
    if unknown := sorted(set(info) - names):
        raise ValueError(f"licence or attribution of {', '.join(unknown)}; the sources are {', '.join(sorted(names))}")
    for each in inputs:
        if each.format not in FORMATS:
            raise ValueError(f"{each.source}: format is {each.format!r}; expected one of {', '.join(FORMATS)}")
        if each.format == "tar" and dictionary is not None:
            raise ValueError(f"{each.source}: format tar has no captions; leave --dictionary out, or take webdataset")


def _published(
    source: str, folder: Path, inputs: Sequence[ImageInput], info: Mapping[str, SourceInfo], output: Path
) -> Published:
    own = [each for each in inputs if each.source == source]
    packed = own[0].format not in TARS
    # of tars, the manifest has the hashes anyway
    listings = [path for each in own for path in each.files if packed and path.is_file()]
    return Published(
        # without links, behind which ".." would lead elsewhere
        folder=source if packed else os.path.relpath(folder.resolve(), output.resolve()),
        packed=packed,
        formats=tuple(dict.fromkeys(each.format for each in own)),
        info=info.get(source, SourceInfo()),
        inputs=tuple({"file": path.name, **describe_file(path)} for path in listings),
    )
