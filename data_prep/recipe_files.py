"""Make recipes: from globs on the command line, from a YAML file, from a data folder of the published code."""

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from data_prep.formats import format_of
from data_prep.formats.original import read_original
from data_prep.recipe import InputFile, Recipe, SourceInfo, check_source_name

# what a source may have in a recipe; what each must be
KEYS: dict[str, tuple[type, ...]] = {
    "files": (str, list),
    "format": (str,),
    "language": (str,),
    "weight": (int, float),
    "license": (str,),
    "attribution": (str,),
}
Attributes = Mapping[str, Mapping[str, Any]]


def from_globs(name: str, sources: Sequence[tuple[str, str]], attributes: Attributes, folder: Path = Path()) -> Recipe:
    """A recipe of (source, glob) pairs; the files of a glob are taken in the order of their paths.

    Args:
        attributes: "format", "language", "weight", "license", "attribution" -> source -> value.
        folder: relative globs are seen from here.
    Raises:
        ValueError: a glob matches nothing, a file's format is not to be told, or an attribute names no source.
    """
    names = list(dict.fromkeys(source for source, _ in sources))
    for key, values in attributes.items():
        if unknown := sorted(set(values) - set(names)):
            raise ValueError(f"{key} of {', '.join(unknown)}; the sources are {', '.join(names)}")
    inputs: dict[tuple[str, str], InputFile] = {}
    for source, pattern in sources:
        check_source_name(source)
        of = {key: values.get(source) for key, values in attributes.items()}
        paths = sorted(Path(path) for path in glob.glob(str(folder / pattern), recursive=True))
        paths = [path for path in paths if path.is_file()]
        if not paths:
            raise ValueError(f"no file matches {folder / pattern} (source {source})")
        for path in paths:
            # a file that two globs match is taken once, also when only one of them is absolute
            inputs[source, os.path.abspath(path)] = InputFile(
                path=path,
                format=of.get("format") or format_of(path),
                source=source,
                language=of.get("language"),
                weight=_number(of.get("weight"), source),
            )
    return Recipe(name, tuple(inputs.values()), _infos(names, attributes))


def from_yaml(path: Path, name: str) -> Recipe:
    """The recipe in a YAML file, as `python -m data_prep --help` shows it; `name` if it has none.

    Raises:
        ValueError: no such recipe: tells what is wrong with which source.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not isinstance(content.get("sources"), dict) or not content["sources"]:
        raise ValueError(f"{path}: expected a mapping with `sources`, a mapping of names to sources")
    if unknown := sorted(map(str, set(content) - {"name", "sources"})):
        raise ValueError(f"{path}: unknown key {', '.join(unknown)}; expected name, sources")
    pairs, attributes = [], {key: {} for key in KEYS if key != "files"}
    for source, entry in content["sources"].items():
        source = str(source)
        _check_source(entry, f"{path}: source {source}")
        files = [entry["files"]] if isinstance(entry["files"], str) else entry["files"]
        pairs += [(source, file) for file in files]
        for key in attributes:
            if entry.get(key) is not None:
                attributes[key][source] = entry[key]
    return from_globs(str(content.get("name") or name), pairs, attributes, path.parent)


def from_original(folder: Path, name: str, attributes: Attributes) -> Recipe:
    """The recipe of a data folder of the published code (json/train.json, json/valid.json)."""
    inputs = tuple(read_original(folder))
    names = list(dict.fromkeys(file.source for file in inputs))
    return Recipe(name, inputs, _infos(names, attributes))


def _infos(names: Sequence[str], attributes: Attributes) -> dict[str, SourceInfo]:
    default = SourceInfo()
    licences, attributions = attributes.get("license", {}), attributes.get("attribution", {})
    return {
        name: SourceInfo(licences.get(name, default.license), attributions.get(name, default.attribution))
        for name in [*names, *licences, *attributions]
    }


def _check_source(entry: Any, where: str) -> None:
    if not isinstance(entry, dict) or "files" not in entry:
        raise ValueError(f"{where}: expected a mapping with `files`")
    for key, value in entry.items():
        if key not in KEYS:
            raise ValueError(f"{where}: unknown key {key!r}; expected one of {', '.join(KEYS)}")
        if value is not None and (not isinstance(value, KEYS[key]) or isinstance(value, bool)):
            expected = " or ".join(kind.__name__ for kind in KEYS[key])
            raise ValueError(f"{where}: {key} is {value!r}; expected {expected}")
    files = entry["files"]
    if not files or not isinstance(files, str) and not all(isinstance(file, str) for file in files):
        raise ValueError(f"{where}: files is {files!r}; expected a glob or a list of globs")


def _number(text: Any, source: str) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        raise ValueError(f"weight of {source} is {text!r}; expected a number") from None
