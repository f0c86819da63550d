"""Prepare a corpus: what was begun is gone on with, what is complete is left alone; the manifest comes last.

OUTPUT/work/<fingerprint of inputs and settings>/ holds each stage's result and datatrove's marks of finished tasks.
Every input file is one task and one shard, so the result doesn't depend on how the work was spread.
"""

import hashlib
import json
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from datatrove.utils.logging import logger

from data_prep.executors import Executor, run_stages
from data_prep.files import locked
from data_prep.formats import FORMATS
from data_prep.manifest import read_complete
from data_prep.recipe import InputFile, Recipe, Settings
from data_prep.stages import make_stages
from data_prep.tokenizers import load_tokenizer, save_tokenizer

# To be raised when the same inputs and settings give other bytes than before.
PIPELINE_VERSION = 3
# Libraries that decide bytes of the output.
LIBRARIES = ("mwparserfromhell", "polib", "sentencepiece", "tiktoken")
# What of a file tells it from others before it is read: its size, and so many pieces of it at even distances.
PIECE, PIECES = 1 << 18, 64
# Settings that decide the manifest or where files are cut, but no intermediate result.
LATE_SETTINGS = ("allow_damaged_files", "shard_tokens")


def prepare(recipe: Recipe, settings: Settings, output: Path, executor: Executor | None = None) -> dict:
    """Make OUTPUT a prepared folder and return its manifest; what is already there is used again.

    The result is the same, byte for byte, however often and wherever earlier calls were interrupted, and whatever
    executor (default: local, all cores) runs the stages. With Slurm, or in a dry run: submits or prints the stages,
    unless the folder is complete, and returns {}.

    Raises:
        ValueError: an input is damaged or missing, or the text is too little for the vocabulary or for the splits.
        RuntimeError: another call works on the same folder, tasks failed on a cluster, or intermediate files were
            tampered with.
    """
    executor = executor or Executor()
    _check_inputs(recipe)
    inputs = [_describe(file) for file in recipe.inputs]
    tokenizer = load_tokenizer(settings.tokenizer) if settings.tokenizer is not None else None
    shape = asdict(settings)
    shape["tokenizer"] = tokenizer and hashlib.sha256(tokenizer.content).hexdigest()
    late = {name: shape.pop(name) for name in LATE_SETTINGS}
    libraries = {name: version(name) for name in LIBRARIES}
    early = _hash([PIPELINE_VERSION, libraries, inputs, shape, recipe.flat])
    weights = [file.weight for file in recipe.inputs]
    infos = {name: asdict(recipe.info_of(name)) for name in recipe.sources()}
    fingerprint = _hash([early, recipe.name, infos, weights, late])
    if manifest := read_complete(output, fingerprint):
        logger.info(f"{output} is complete")
        return manifest
    work = output / "work" / early[:16]
    with locked(output / "work"):
        path = save_tokenizer(tokenizer, work) if tokenizer else None
        # tasks on other machines, or in another folder, must find the files
        located = replace(recipe, inputs=tuple(replace(file, path=file.path.absolute()) for file in recipe.inputs))
        absolute = work.absolute(), path and path.absolute()
        stages = make_stages(located, settings, output.absolute(), *absolute, fingerprint)
        seconds = run_stages(stages, work / "logs", executor)
    if executor.kind == "slurm" or executor.dry_run:
        return {}
    manifest = read_complete(output, fingerprint, hashes=False)
    if manifest is None:
        raise RuntimeError(f"the files of {output} are not as they were written; see that nothing else writes there")
    _summarize(manifest, seconds)
    return manifest


def _check_inputs(recipe: Recipe) -> None:
    for file in recipe.inputs:
        if file.format not in FORMATS:
            raise ValueError(f"{file.path}: format is {file.format!r}; expected one of {', '.join(FORMATS)}")
    if missing := [str(file.path) for file in recipe.inputs if not file.path.is_file()]:
        raise ValueError(f"no such input file: {', '.join(missing)}")


def _describe(file: InputFile) -> dict:
    """What tells an input from others. Terabytes are not hashed before the work begins: a task hashes its file."""
    digest, size = hashlib.sha256(), file.path.stat().st_size
    with open(file.path, "rb") as stream:
        if size <= PIECE * PIECES:
            digest.update(stream.read())
        else:
            for number in range(PIECES):
                stream.seek((size - PIECE) * number // (PIECES - 1))
                digest.update(stream.read(PIECE))
    described = asdict(file) | {"path": file.path.name, "size": size, "content": digest.hexdigest()}
    del described["weight"]
    return described


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _summarize(manifest: dict, seconds: dict[str, float]) -> None:
    """Log how fast the stages were that ran in this call."""
    inputs = {
        (file["file"], file["sha256"]): file["size"] for s in manifest["sources"].values() for file in s["inputs"]
    }
    total = {
        what: sum(split[what] for split in manifest["splits"].values()) for what in ("documents", "tokens", "bytes")
    }
    amounts = {
        "text": (("documents", manifest["read"], 1), ("MB of input", sum(inputs.values()), 1e6)),
        "index": (("tokens", total["tokens"], 1), ("MB of text", total["bytes"], 1e6)),
    }
    for stage, duration in seconds.items():
        rates = [
            f"{amount / unit:,.1f} {what}, {amount / unit / max(duration, 1e-3):,.1f}/s"
            if unit != 1
            else f"{amount:,} {what}, {amount / max(duration, 1e-3):,.0f}/s"
            for what, amount, unit in amounts.get(stage, ())
        ]
        logger.info("; ".join([f"stage {stage}: {duration:.1f} s", *rates]))
