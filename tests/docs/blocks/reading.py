"""The fenced blocks of the documents, and what a reader would type of them."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from ...forks import ROOT

FOLDERS = ("docs", "configs", "docker", "examples", "scripts", "benchmarks", "data_prep", "fairseq_mhmoe")
SHELLS = ("bash", "sh", "shell", "console")
# Fences whose content is shown, not typed. A new language is for somebody to decide about.
SHOWN = ("", "text", "yaml", "json", "toml", "ini", "diff", "dockerfile", "mermaid", "markdown")


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is that of its fence."""

    document: str  # from the repository's root
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def is_shell(self) -> bool:
        return self.language in SHELLS

    @property
    def file(self) -> str:
        """Where a Python block is to be saved: its first line may be "# FOLDER/FILE.py"."""
        found = re.match(r"# ([\w/]+\.py)\n", self.text)
        return found[1] if found and self.language == "python" else ""

    @property
    def script(self) -> str:
        """What is typed: of a console session the lines behind a prompt, with those that go on."""
        if self.language != "console":
            return self.text
        lines, goes_on = [], False
        for line in self.text.splitlines():
            if goes_on or line.startswith(("$ ", "> ")):
                lines.append(line if goes_on and not line.startswith("> ") else line[2:])
                goes_on = line.endswith("\\")
        return "\n".join(lines) + "\n"


def documents() -> list[Path]:
    """All documents in which a reader finds commands."""
    found = [path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"]
    for folder in FOLDERS:
        found += (ROOT / folder).rglob("*.md")
    return sorted(path for path in found if not {"node_modules", "runs", "data"} & set(path.parts[:-1]))


def read_blocks(path: Path, root: Path = ROOT) -> list[Block]:
    """The fenced blocks of a document, also those within lists. ValueError where a fence is not closed."""
    blocks, name = [], path.relative_to(root).as_posix()
    lines = iter(enumerate(path.read_text().splitlines(), start=1))
    for number, line in lines:
        fence = re.match(r"^\s*(```+|~~~+)\s*([\w+-]*)", line)
        if not fence:
            continue
        content = []
        for _, inner in lines:
            if inner.strip() == fence[1]:
                break
            content.append(inner)
        else:
            raise ValueError(f"{name}:{number}: the fence is not closed")
        blocks.append(Block(name, number, fence[2].lower(), textwrap.dedent("\n".join(content)) + "\n"))
    return blocks


def all_blocks() -> list[Block]:
    """Of all documents, in their order."""
    return [block for path in documents() for block in read_blocks(path)]


def typed_lines(block: Block, programs: set[str]) -> list[str]:
    """Lines of a block that is only shown which look typed: a program's name first, no word to be filled in."""
    found = []
    for line in block.text.splitlines():
        words = re.sub(r"^(\$ |[A-Z_]+=\S+ )+", "", line.strip()).split()
        if (
            len(words) > 1
            and words[0] in programs
            and not any(re.fullmatch(r'["\[]*[A-Z]{3,}["\]]*', w) for w in words)
        ):
            found.append(line)
    return found
