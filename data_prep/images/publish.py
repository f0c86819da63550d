"""The last step: one index for each split out of the indexes of the tars, then the manifest."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_prep.fairseq_index import token_dtype
from data_prep.files import copy, replacing
from data_prep.images.captions import TOKENIZER_FILES, CaptionEncoder
from data_prep.images.layout import CAPTION_PARTS, FORMAT, IMAGE, IMAGE_PARTS, KIND, index_name
from data_prep.images.settings import ImageSettings
from data_prep.images.shard_index import load_index, load_rejected
from data_prep.manifest import DICTIONARY, MANIFEST, describe_file, write_manifest
from data_prep.recipe import SOURCE_NAME, SPLITS, SourceInfo

# the manifest that a new one will replace
REPLACED = ".replaced.json"
INDEX_FILE = re.compile(rf"({'|'.join(SPLITS)})\.({'|'.join((*IMAGE_PARTS, *CAPTION_PARTS))})\.npy")
# a reason for rejection, and which split keeps an image that several have
IN_ANOTHER_SPLIT = "in_another_split"
REJECTED = "rejected"
PRIORITY = ("test", "valid", "train")


@dataclass(frozen=True)
class Published:
    """A source as the manifest tells it. folder: of its tars, seen from the output. packed: they lie in the output."""

    folder: str
    packed: bool
    formats: tuple[str, ...]
    info: SourceInfo = SourceInfo()
    inputs: tuple[dict, ...] = ()


def withdraw(output: Path) -> None:
    """Take the manifest away, before anything is changed: the folder counts as unfinished."""
    if (output / MANIFEST).exists():
        os.replace(output / MANIFEST, output / REPLACED)


def publish(
    output: Path,
    name: str,
    sources: dict[str, Published],
    indexes: Sequence[tuple[str, Path]],
    settings: ImageSettings,
    encoder: CaptionEncoder | None,
    fingerprint: str,
) -> dict:
    """Write the splits' indexes, copies of the dictionary and the tokenizer, and then the manifest, which is returned.

    Args:
        indexes: source and file of `ShardIndex.save` of each tar, in the order that the images will have.
    Raises:
        ValueError: no image was accepted, or none in the training split.
    """
    withdraw(output)
    others = _Copies([path for _, path in indexes])
    counts = {source: {"read": 0, "rejected": Counter(), "splits": {}} for source in sources}
    totals: dict[str, Counter] = {split: Counter() for split in SPLITS}
    tars, damaged = [], []
    for source, path in indexes:
        header, arrays = load_index(path)
        tars.append({"source": source, **header["tar"]})
        if header["damage"]:
            damaged.append({"file": f"{source}/{header['tar']['file']}", "reason": header["damage"]})
        counts[source]["read"] += header["read"]
        counts[source]["rejected"].update(header["rejected"])
        for number, split in enumerate(SPLITS):
            images, rows, tokens = others.keep(arrays, number)
            here = Counter(images=len(images), records=len(rows) if encoder else len(images), tokens=int(tokens.sum()))
            here["names"] = int(_name_sizes(arrays)[images].sum())
            totals[split].update(here)
            of_source = counts[source]["splits"].setdefault(split, Counter())
            of_source.update({key: here[key] for key in ("images", "records", "tokens")})
            copies = others.dropped(arrays, number, bool(encoder))
            counts[source]["rejected"].update({IN_ANOTHER_SPLIT: len(copies)})
    _list_rejected(output / REJECTED, list(sources), indexes, others, bool(encoder))
    _check_totals(output, totals, counts)
    dtype = token_dtype(encoder.size) if encoder else None
    written = {}
    for number, split in enumerate(SPLITS):
        if totals[split]["images"]:
            _write_split(output, split, number, totals[split], [path for _, path in indexes], others, dtype)
            parts = (*IMAGE_PARTS, *(CAPTION_PARTS if encoder else ()))
            files = {index_name(split, part): describe_file(output / index_name(split, part)) for part in parts}
            sizes = {key: totals[split][key] for key in ("images", "records", "tokens")}
            written[split] = {**sizes, "files": files}
    if encoder:
        for file in (DICTIONARY, encoder.tokenizer.file_name):
            copy(encoder.folder / file, output / file)
    manifest = {
        "format": FORMAT,
        "kind": KIND,
        "name": name,
        "license": "; ".join(dict.fromkeys(source.info.license for source in sources.values())),
        "attribution": "\n".join(dict.fromkeys(s.info.attribution for s in sources.values() if s.info.attribution)),
        "fingerprint": fingerprint,
        "settings": asdict(settings),
        "limits": settings.limits._asdict(),
        "read": sum(count["read"] for count in counts.values()),
        "rejected": dict(sorted(sum((count["rejected"] for count in counts.values()), Counter()).items())),
        "sources": {source: _describe(sources[source], count) for source, count in counts.items()},
        "splits": written,
        **(encoder.describe() if encoder else {"tokenizer": None, "dictionary": None}),
        "tars": tars,
    }
    if damaged:
        manifest["damaged"] = damaged
    manifest = json.loads(json.dumps(manifest))  # as a reader of the file sees it
    _remove_others(output, manifest)
    write_manifest(output, manifest)
    (output / REPLACED).unlink(missing_ok=True)
    return manifest


class _Copies:
    """Which images stay where equal bytes are in several splits: those of the first of PRIORITY that has them."""

    def __init__(self, paths: Sequence[Path]):
        held = {split: [np.zeros(0, np.uint64)] for split in PRIORITY[:-1]}
        for path in paths:
            _, arrays = load_index(path)
            for split, keys in held.items():
                keys.append(_keys(arrays["images"])[arrays["splits"] == SPLITS.index(split)])
        self._held = {split: np.unique(np.concatenate(keys)) for split, keys in held.items()}

    def keep(self, arrays: dict, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of the images of a split that stay, of their records, and the records' numbers of tokens."""
        chosen = (arrays["splits"] == number) & ~self._elsewhere(arrays, number)
        records = np.flatnonzero(chosen[arrays["rows"]])
        sizes = np.diff(arrays["starts"].astype(np.int64))
        return np.flatnonzero(chosen), records, sizes[records]

    def dropped(self, arrays: dict, number: int, captions: bool) -> list[str]:
        """Names of the images of the split that don't stay, one for each record."""
        gone = (arrays["splits"] == number) & self._elsewhere(arrays, number)
        rows = arrays["rows"][gone[arrays["rows"]]] if captions else np.flatnonzero(gone)
        ends = arrays["images"]["name_end"].astype(np.int64)[rows]
        starts = ends - _name_sizes(arrays)[rows]
        return [arrays["names"][a:b].tobytes().decode("utf-8") for a, b in zip(starts, ends, strict=True)]

    def _elsewhere(self, arrays: dict, number: int) -> np.ndarray:
        keys = _keys(arrays["images"])
        found = np.zeros(len(keys), bool)
        for split in PRIORITY[: PRIORITY.index(SPLITS[number])]:
            held = self._held[split]
            if len(held):
                found |= held[np.minimum(np.searchsorted(held, keys), len(held) - 1)] == keys
        return found


def _keys(images: np.ndarray) -> np.ndarray:
    """[I] first eight bytes of the hashes: two of ten million images have the same once in 400,000 collections."""
    return np.ascontiguousarray(images["digest"][:, :8]).view(np.uint64)[:, 0]


def _name_sizes(arrays: dict) -> np.ndarray:
    return np.diff(arrays["images"]["name_end"].astype(np.int64), prepend=0)


def _check_totals(output: Path, totals: dict[str, Counter], counts: dict) -> None:
    if not totals["train"]["images"]:
        rejected = sum((count["rejected"] for count in counts.values()), Counter())
        why = ", ".join(f"{reason} {records}" for reason, records in rejected.most_common(5)) or "nothing was read"
        raise ValueError(f"{output}: no image for training was accepted ({why}); see {output / REJECTED}")


def _list_rejected(
    folder: Path, sources: list[str], indexes: Sequence[tuple[str, Path]], others: _Copies, captions: bool
) -> None:
    """FOLDER/SOURCE.jsonl: tar, image and reason of every record that was not taken."""
    for source in sources:
        with replacing(folder / f"{source}.jsonl") as temporary, open(temporary, "w", encoding="utf-8") as file:
            for path in (path for of, path in indexes if of == source):
                header, arrays = load_index(path)
                records = load_rejected(arrays)
                for number in range(len(SPLITS)):
                    records += [(name, IN_ANOTHER_SPLIT) for name in others.dropped(arrays, number, captions)]
                for name, reason in records:
                    file.write(json.dumps({"tar": header["tar"]["file"], "name": name, "reason": reason}) + "\n")
    for path in folder.glob("*.jsonl"):
        if path.stem not in sources:
            path.unlink()


def _write_split(
    output: Path, split: str, number: int, total: Counter, paths: Sequence[Path], others: _Copies, dtype: type | None
) -> None:
    with (
        _array(output / index_name(split, "images"), IMAGE, total["images"]) as images,
        _array(output / index_name(split, "names"), np.uint8, total["names"]) as names,
    ):
        end = 0
        for tar, path in enumerate(paths):
            _, arrays = load_index(path)
            rows, _, _ = others.keep(arrays, number)
            chosen, sizes = arrays["images"][rows], _name_sizes(arrays)[rows]
            chosen["tar"] = tar
            starts = chosen["name_end"].astype(np.int64) - sizes
            names.write(b"".join(arrays["names"][a : a + b].tobytes() for a, b in zip(starts, sizes, strict=True)))
            chosen["name_end"] = end + np.cumsum(sizes)
            end += int(sizes.sum())
            images.write(chosen.tobytes())
    if dtype is None:
        return
    with (
        _array(output / index_name(split, "rows"), np.uint32, total["records"]) as rows_file,
        _array(output / index_name(split, "starts"), np.uint64, total["records"] + 1) as starts_file,
        _array(output / index_name(split, "tokens"), dtype, total["tokens"]) as tokens_file,
    ):
        starts_file.write(np.zeros(1, np.uint64).tobytes())
        first, end = 0, 0
        for path in paths:
            _, arrays = load_index(path)
            rows, records, sizes = others.keep(arrays, number)
            numbers = np.zeros(len(arrays["images"]), np.int64)
            numbers[rows] = first + np.arange(len(rows))
            first += len(rows)
            rows_file.write(numbers[arrays["rows"][records]].astype(np.uint32).tobytes())
            starts_file.write((end + np.cumsum(sizes)).astype(np.uint64).tobytes())
            end += int(sizes.sum())
            of_record = np.repeat(np.arange(len(arrays["rows"])), np.diff(arrays["starts"].astype(np.int64)))
            kept = np.zeros(len(arrays["rows"]), bool)
            kept[records] = True
            tokens_file.write(arrays["tokens"][kept[of_record]].astype(dtype).tobytes())


@contextmanager
def _array(path: Path, dtype, length: int) -> Iterator:
    """A file that numpy will load as an array of so many elements; their bytes are to be written to it."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        described = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
        np.lib.format.write_array_header_1_0(file, {"descr": described, "fortran_order": False, "shape": (length,)})
        start = file.tell()
        yield file
        assert file.tell() - start == length * np.dtype(dtype).itemsize


def _describe(source: Published, count: dict) -> dict:
    rejected = dict(sorted((+count["rejected"]).items()))
    return {
        "folder": source.folder,
        "packed": source.packed,
        "formats": list(source.formats),
        "license": source.info.license,
        "attribution": source.info.attribution,
        "read": count["read"],
        "accepted": count["read"] - sum(rejected.values()),
        "rejected": rejected,
        "splits": {split: dict(here) for split, here in count["splits"].items() if here["records"]},
        "inputs": list(source.inputs),
    }


def _remove_others(output: Path, manifest: dict) -> None:
    """Remove what earlier calls with other inputs or settings left: indexes, dictionaries, tars that they packed."""
    kept = {name for split in manifest["splits"].values() for name in split["files"]}
    for path in output.glob("*.npy"):
        if INDEX_FILE.fullmatch(path.name) and path.name not in kept:
            path.unlink()
    for name in (*TOKENIZER_FILES, DICTIONARY):
        if manifest["dictionary"] is None or name not in (DICTIONARY, manifest["tokenizer"]["file"]):
            (output / name).unlink(missing_ok=True)
    tars = {(tar["source"], tar["file"]) for tar in manifest["tars"]}
    try:
        earlier = json.loads((output / REPLACED).read_text(encoding="utf-8"))
        packed = [name for name, source in earlier["sources"].items() if source["packed"]]
        old = [(tar["source"], tar["file"]) for tar in earlier["tars"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return  # there was none, or no manifest of ours
    for source, file in old:
        plain = SOURCE_NAME.fullmatch(source) and Path(file).name == file
        if plain and source in packed and (source, file) not in tars:
            (output / source / file).unlink(missing_ok=True)
