"""datatrove steps around the texts: read the input files, read a stage's documents, count them, wait for a stage."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import orjson
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from data_prep.files import sha256_of, write_text
from data_prep.filters import NOT_SAMPLED, LengthFilter, SampleFilter
from data_prep.formats import FORMATS, Rejected
from data_prep.opening import DamagedFile, open_input
from data_prep.recipe import InputFile

LOGGED_REJECTS = 5
PROGRESS_SECONDS = 30
# each needs up to three open files
MAX_SUBSETS = 64
# nothing but too long lines makes a longer name; folders have a limit too
MAX_SUBSET_NAME = 40


def subset_name(source: str, subset: str) -> str:
    """Name of the source that a part of a mixed file becomes: SOURCE-PART, with other characters replaced."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", subset)[:MAX_SUBSET_NAME]
    if name != subset:  # different parts keep different names
        name += "-" + sha256(subset.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{source}-{name}"


class _TooManySubsets(ValueError):
    pass


class ReadInputs(PipelineStep):
    """Read, clean and filter the documents of the input file with this rank's number.

    Counts read/SOURCE and rejected/SOURCE/REASON. Leaves WORK/inputs/<rank>.json (name, size, hash, damage of the
    file) and WORK/rejected/<rank>.jsonl (reason and position of every record that was not taken).
    """

    name = "📥 input files"
    type = "📖 - READER"

    def __init__(
        self,
        inputs: Sequence[InputFile],
        work: str,
        length: LengthFilter,
        sample: SampleFilter,
        split_subsets: bool,
        allow_damaged_files: bool,
    ):
        super().__init__()
        self.inputs = tuple(inputs)
        self.work = work
        self.length = length
        self.sample = sample
        self.split_subsets = split_subsets
        self.allow_damaged_files = allow_damaged_files

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield the documents that are taken, with title, language, source and perhaps split in their metadata.

        Raises:
            DamagedFile: the file cannot be read to its end, and damaged files are not allowed.
            ValueError: the file names more than MAX_SUBSETS subsets.
            RuntimeError: reading failed otherwise; names file and record.
        """
        file = self.inputs[rank]
        rejected = Path(self.work) / "rejected" / f"{rank:05d}.jsonl"
        rejected.parent.mkdir(parents=True, exist_ok=True)
        damage = None
        with open(rejected, "wb") as log:
            progress = _Progress(file.path)
            try:
                for document in self._documents(file, log):
                    progress.add(document)
                    yield document
            except DamagedFile as error:
                if not self.allow_damaged_files:
                    raise
                logger.warning(f"{error}; the documents before are taken")
                damage = str(error).replace(str(file.path), file.path.name)
            progress.finish()
        entry = {"file": file.path.name, "size": file.path.stat().st_size, "sha256": sha256_of(file.path)}
        if damage:
            entry["damage"] = damage
        write_text(Path(self.work) / "inputs" / f"{rank:05d}.json", json.dumps(entry))

    def _documents(self, file: InputFile, log) -> Iterator[Document]:
        read, subsets, logged = 0, set(), 0
        try:
            with open_input(file.path) as stream:
                for record in FORMATS[file.format].read(stream, str(file.path)):
                    read += 1
                    reason, position, source = self._judge(file, record)
                    self.stat_update(f"read/{source}")
                    if reason is None:
                        subsets.add(source)
                        if len(subsets) > MAX_SUBSETS:
                            raise _TooManySubsets(
                                f"{file.path}: more than {MAX_SUBSETS} subsets, the last in {position}: {source!r}; "
                                "take the file as one source (--no-split-subsets)"
                            )
                        yield self._labelled(record, file, source)
                        continue
                    self.stat_update(f"rejected/{source}/{reason}")
                    if reason != NOT_SAMPLED:  # these may be nearly all, and nothing is wrong with them
                        log.write(orjson.dumps([reason, position, source], option=orjson.OPT_APPEND_NEWLINE))
                        logged += 1
                        if logged <= LOGGED_REJECTS:
                            more = "; further ones are in work/*/rejected" if logged == LOGGED_REJECTS else ""
                            logger.info(f"{file.path}: {position}: rejected: {reason}{more}")
        except (DamagedFile, _TooManySubsets):
            raise
        except Exception as error:
            raise RuntimeError(
                f"{file.path}: reading as {file.format} failed after {read} records: {type(error).__name__}: {error}"
            ) from error

    def _judge(self, file: InputFile, record: Document | Rejected) -> tuple[str | None, str, str]:
        """Why a record is not taken (None: it is), where it stands, and its source; cleans the document."""
        if isinstance(record, Rejected):
            return record.reason, record.position, file.source
        source = self._source(file, record)
        reason = self.sample.reason(record) or FORMATS[file.format].clean(record) or self.length.reason(record)
        return reason, f"document {record.id}", source

    def _source(self, file: InputFile, document: Document) -> str:
        subset = document.metadata.get("source")
        if not self.split_subsets or not subset or subset == file.source:
            return file.source
        return subset_name(file.source, str(subset))

    @staticmethod
    def _labelled(document: Document, file: InputFile, source: str) -> Document:
        # nothing else of what a file says about itself gets into file names
        metadata = {"source": source}
        for key, value in (
            ("title", document.metadata.get("title")),
            ("language", document.metadata.get("language") or file.language),
            ("split", file.split),
        ):
            if value:
                metadata[key] = str(value).encode("utf-8", "replace").decode()
        document.metadata = metadata
        return document


class _Progress:
    """Log how fast documents of one file come."""

    def __init__(self, path: Path):
        self.path = path
        self.documents = self.characters = 0
        self.start = self.last = time.monotonic()

    def add(self, document: Document) -> None:
        self.documents += 1
        self.characters += len(document.text)
        if self.documents % 100 == 0 and time.monotonic() - self.last > PROGRESS_SECONDS:
            self.last = time.monotonic()
            self._log("so far")

    def finish(self) -> None:
        self._log("in all")

    def _log(self, when: str) -> None:
        seconds = max(time.monotonic() - self.start, 1e-3)
        millions = self.characters / 1e6
        logger.info(
            f"{self.path.name}: {self.documents:,} documents, {millions:,.1f} million characters {when}; "
            f"{self.documents / seconds:,.0f} documents/s, {millions / seconds:,.1f} million characters/s"
        )


class ReadTask(PipelineStep):
    """Read the documents that an earlier stage wrote in the task of the same number; none if it wrote no file."""

    name = "📄 documents of the task"
    type = "📖 - READER"

    def __init__(self, folder: str):
        super().__init__()
        self.folder = folder

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield them in the order in which they were written."""
        path = Path(self.folder) / f"{rank:05d}.jsonl"
        if not path.exists():
            return
        with open(path, "rb") as file:
            for line in file:
                entry = orjson.loads(line)
                yield Document(text=entry["text"], id=entry.get("id", ""), metadata=entry["metadata"])


class CountBySource(PipelineStep):
    """Count the documents that pass, as LABEL/SOURCE/SPLIT."""

    type = "🔢 - COUNT"

    def __init__(self, label: str):
        self.name = label
        super().__init__()
        self.label = label

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Pass every document on."""
        for document in data:
            self.stat_update(f"{self.label}/{document.metadata['source']}/{document.metadata['split']}")
            yield document


class AfterStage(PipelineStep):
    """Refuse to begin before every task of an earlier stage is finished.

    Slurm starts a job when the last of several arrays has ended, whether or not all of them have succeeded.
    """

    name = "⏳ earlier stage"
    type = "⏳ - CHECK"

    def __init__(self, logging_dir: str, tasks: int):
        super().__init__()
        self.logging_dir = logging_dir
        self.tasks = tasks

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Pass the data on.

        Raises:
            RuntimeError: a task is missing; names the folder with the logs.
        """
        folder = Path(self.logging_dir) / "completions"
        finished = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        missing = [rank for rank in range(self.tasks) if f"{rank:05d}" not in finished]
        if missing:
            raise RuntimeError(
                f"{len(missing)} of {self.tasks} tasks of {self.logging_dir} are not finished, the first is "
                f"{missing[0]}; see the logs there, and run again"
            )
        return data
