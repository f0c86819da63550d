"""The last stage: put indexes, tokenizer and dictionary in place, and write the manifest when all is there."""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from data_prep.counts import Counts
from data_prep.fairseq_index import merge_shards, token_dtype
from data_prep.files import sha256_of, write_text
from data_prep.manifest import DICTIONARY, FORMAT, MANIFEST, describe_file, write_manifest
from data_prep.recipe import SOURCE_NAME, SPLITS, Recipe, Settings
from data_prep.tokenizers import load_tokenizer, save_tokenizer
from data_prep.tokenizers.dictionary import FAIRSEQ_SPECIALS, dictionary_text

INDEX_FILE = re.compile(rf"({'|'.join(SPLITS)})\d*\.(bin|idx)")
# the manifest that a new one will replace
REPLACED = ".replaced.json"
TOKENIZER_FILES = ("spm.model", "tokenizer.tiktoken")


class Publish(PipelineStep):
    """Make OUTPUT a prepared folder of what WORK holds; one task."""

    name = "📦 prepared folder"
    type = "📦 - PUBLISH"

    def __init__(self, recipe: Recipe, settings: Settings, output: str, work: str, tokenizer: str, fingerprint: str):
        super().__init__()
        self.recipe = recipe
        self.settings = settings
        self.output = output
        self.work = work
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Write all files; a stale manifest goes before anything is changed, the new one comes last.

        Raises:
            RuntimeError: not every document has reached the indexes.
        """
        output = Path(self.output)
        counts = Counts(Path(self.work), self.recipe)
        counts.check_indexes()
        earlier = self._withdraw(output)
        tokenizer = load_tokenizer(self.tokenizer)
        size = len(FAIRSEQ_SPECIALS) + len(tokenizer.symbols)
        written = {save_tokenizer(tokenizer, output).name}
        write_text(output / DICTIONARY, dictionary_text(tokenizer.symbols))
        files = defaultdict(list)
        for source, splits in counts.indexed().items():
            folder = "" if self.recipe.flat else f"{source}/"
            for split in splits:
                for number, shards in enumerate(self._groups(source, split, token_dtype(size))):
                    prefix = f"{folder}{split}{number or ''}"
                    merge_shards(shards, output / prefix, token_dtype(size))
                    files[split] += [f"{prefix}.bin", f"{prefix}.idx"]
        written.update(name for names in files.values() for name in names)
        self._remove_others(output, written, [*counts.sources(), *earlier])
        manifest = self._manifest(output, counts, files)
        manifest["tokenizer"] = {
            "kind": tokenizer.kind,
            "file": tokenizer.file_name,
            "vocab_size": tokenizer.vocab_size,
            "sha256": sha256_of(output / tokenizer.file_name),
        }
        manifest["dictionary"] = {"file": DICTIONARY, "size": size, "sha256": sha256_of(output / DICTIONARY)}
        write_manifest(output, manifest)
        (output / REPLACED).unlink(missing_ok=True)
        for split, total in manifest["splits"].items():
            logger.info("{}: {documents:,} documents, {tokens:,} tokens, {bytes:,} bytes".format(split, **total))

    def _withdraw(self, output: Path) -> list[str]:
        """Take the manifest away; folders of the sources that it names, also if a call that did so was killed."""
        if (output / MANIFEST).exists():
            os.replace(output / MANIFEST, output / REPLACED)
        try:
            sources = json.loads((output / REPLACED).read_text(encoding="utf-8"))["sources"]
            return [
                name for name, source in sources.items() if source["folder"] == name and SOURCE_NAME.fullmatch(name)
            ]
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return []  # there was none, or no manifest of ours

    def _groups(self, source: str, split: str, dtype: type) -> list[list[Path]]:
        """The tasks' indexes in their order, put together to about `shard_tokens` each."""
        groups, tokens = [], 0
        for path in sorted((Path(self.work) / "index" / source / split).glob("[0-9]*.idx")):
            here = path.with_suffix(".bin").stat().st_size // dtype().itemsize
            if not groups or tokens + here > self.settings.shard_tokens:
                groups.append([])
                tokens = 0
            groups[-1].append(path.with_suffix(""))
            tokens += here
        return groups

    def _remove_others(self, output: Path, written: set[str], sources: Sequence[str]) -> None:
        """Remove what calls with other settings, or calls that were killed, have left: it would be read as data."""
        for name in TOKENIZER_FILES:
            if name not in written:
                (output / name).unlink(missing_ok=True)
        for folder in (output, *(output / source for source in sources)):
            for path in folder.glob(".*.tmp*"):
                path.unlink()
            for path in folder.glob("*.*"):
                if INDEX_FILE.fullmatch(path.name) and path.relative_to(output).as_posix() not in written:
                    path.unlink()
            if folder != output and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _manifest(self, output: Path, counts: Counts, files: dict[str, list[str]]) -> dict:
        sources = counts.by_source(self.recipe.flat)
        licences = [f"{source['license']}" for source in sources.values()]
        attributions = [source["attribution"] for source in sources.values()]
        settings = asdict(self.settings)
        if self.settings.tokenizer is not None:
            settings["tokenizer"] = Path(self.settings.tokenizer).name
        totals = {split: Counter() for split in SPLITS if split in files}
        for source in sources.values():
            for split, total in source["splits"].items():
                totals[split].update(total)
        rejected = sum((Counter(source["rejected"]) for source in sources.values()), Counter())
        manifest = {
            "format": FORMAT,
            "name": self.recipe.name,
            "license": "; ".join(dict.fromkeys(filter(None, licences))),
            "attribution": "\n".join(dict.fromkeys(filter(None, attributions))),
            "fingerprint": self.fingerprint,
            "settings": settings,
            "read": sum(source["read"] for source in sources.values()),
            "rejected": dict(sorted(rejected.items())),
            "sources": sources,
            "splits": {
                split: dict(total) | {"files": {name: describe_file(output / name) for name in files[split]}}
                for split, total in totals.items()
            },
        }
        for key, entries in (("damaged", counts.damaged()), ("unusable", counts.unusable())):
            if entries:
                manifest[key] = entries
        # as a reader of the file sees it
        return json.loads(json.dumps(manifest))
