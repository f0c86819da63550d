"""The published MH-MoE code's data folders: json/train.json and json/valid.json, which list files of JSON lines."""

import json
from pathlib import Path
from typing import Any

from datatrove.utils.logging import logger

from data_prep.recipe import SPLITS, InputFile

# of an entry; what each must be
KEYS: dict[str, tuple[type, ...]] = {
    "source": (list,),
    "name": (str,),
    "source_lang": (str,),
    "weight": (int, float),
    "count": (int, float),
}


def read_original(folder: Path) -> list[InputFile]:
    """Input files of every list in FOLDER/json, train first.

    A list's split is fixed, unless there is only train.json: then its documents are divided as the settings say.
    A source is called by the entry's name, else by its language. Its weight is `weight`, else `count`, as the
    published loader has it; what train.json says holds for all splits. Relative files are looked up in FOLDER, in
    FOLDER/json, beside FOLDER and in the working directory.

    Raises:
        ValueError: no list, wrong types (with the list and the number of the entry), or missing files (all of them).
    """
    lists = {split: path for split in SPLITS if (path := folder / "json" / f"{split}.json").exists()}
    if "train" not in lists:
        raise ValueError(f"{folder}: no json/train.json; expected a data folder of the published code")
    files: list[InputFile] = []
    missing: list[str] = []
    known: dict[str, tuple[str, dict[str, Any]]] = {}
    for split, path in lists.items():
        for number, entry in enumerate(_entries(path), start=1):
            where = f"{path}: entry {number}"
            _check(entry, where)
            name = entry.get("name") or entry.get("source_lang")
            if not name:
                raise ValueError(f'{where}: neither "name" nor "source_lang"; expected one, to call the source by')
            attributes = {"language": entry.get("source_lang") or None, "weight": _weight(entry)}
            first_split, first = known.setdefault(name, (split, attributes))
            if attributes != first and split == first_split:
                raise ValueError(
                    f"{where}: {name} has {attributes}, but above {first}; give it one language and weight"
                )
            for file in entry["source"]:
                found = _find(file, folder)
                if found is None:
                    missing.append(f"{where}: {file}")
                    continue
                try:
                    fixed = split if len(lists) > 1 else None
                    files.append(InputFile(found, "jsonl", name, **first, split=fixed))
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from None
    if missing:
        raise ValueError(f"{len(missing)} files are missing:\n" + "\n".join(missing))
    if not files:
        raise ValueError(f"{folder}: its lists name no files")
    return files


def _entries(path: Path) -> list[Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON: {error}") from None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: {type(entries).__name__}, expected a list of entries with source, weight and name")
    return entries


def _check(entry: Any, where: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: {type(entry).__name__}, expected an object with source, weight and name")
    if "source" not in entry:
        raise ValueError(f'{where}: no "source"; expected a list of file names')
    if unknown := sorted(set(entry) - set(KEYS)):
        logger.warning(f"{where}: {', '.join(unknown)} has no effect; known are {', '.join(KEYS)}")
    for key, types in KEYS.items():
        value = entry.get(key)
        if value is not None and (not isinstance(value, types) or isinstance(value, bool)):
            expected = " or ".join(kind.__name__ for kind in types)
            raise ValueError(f"{where}: {key} is {value!r}, expected {expected}")
    if entry["source"] is None or not all(isinstance(file, str) and file for file in entry["source"]):
        raise ValueError(f"{where}: source is {entry['source']!r}, expected a list of file names")


def _weight(entry: dict[str, Any]) -> float | None:
    value = entry.get("weight") if entry.get("weight") is not None else entry.get("count")
    return None if value is None else float(value)


def _find(file: str, folder: Path) -> Path | None:
    """The file, out of the places where a relative name may stand for it; None when it is in none of them."""
    if "\0" in file:
        return None
    places = (folder / file, folder / "json" / file, folder.resolve().parent / file, Path(file))
    return next((place for place in places if place.is_file()), None)
