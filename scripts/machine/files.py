"""Results on disk, whole or not at all; folders that are removed again; the commit at hand."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Writes content as indented JSON: a temporary file beside path, flushed, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def remove_folder(path: Path) -> None:
    """Removes a folder with what is write-protected in it, and nothing behind links."""

    def unlock(function, name, _):
        os.chmod(os.path.dirname(name), stat.S_IRWXU)
        function(name)

    if path.is_symlink() or not path.is_dir():
        raise ValueError(f"{path} is no folder: nothing was removed")
    shutil.rmtree(path, onerror=unlock)


def commit(root: Path) -> str:
    """The commit of a working tree, 12 digits, with "+" if files differ from it; "unknown" without git."""
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD")
        return name + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table in columns of equal width."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in [head, *rows]]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" if i != 1 else f"|-{line}-|" for i, line in enumerate(lines))
