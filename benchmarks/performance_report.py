"""Fills the tables of docs/performance.md from the stored figures of the benchmarks.

    python benchmarks/performance_report.py           # writes
    python benchmarks/performance_report.py --check   # exit status 1 when the document is not what the figures give

A table stands between the lines `<!-- table: NAME -->` and `<!-- end -->`; everything else is left alone.
"""

import argparse
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import report_layer
import report_programs

from data_prep.files import write_text

ROOT = Path(__file__).resolve().parents[1]
NOT_MEASURED = "Not measured yet: `bash benchmarks/performance.sh`."
# Table -> the programs whose figures it needs.
TABLES = {
    "machine": (report_programs.machine, ()),
    "layers": (report_programs.layers, ()),
    "layer": (report_layer.layer, ("moe_layer",)),
    "peers": (report_layer.peers, ("moe_layer",)),
    "routing": (report_layer.routing, ("moe_layer",)),
    "experts": (report_layer.experts, ("moe_layer",)),
    "memory": (report_layer.memory, ("moe_layer",)),
    "backends": (report_layer.backends, ("moe_layer",)),
    "step": (report_programs.step, ("train_step",)),
    "cross entropy": (report_programs.cross_entropy, ("cross_entropy",)),
    "profile": (report_programs.profile, ("profile_step",)),
    "GPUs": (report_programs.devices, ("expected",)),
    "expected": (report_programs.expected, ("expected",)),
    "assumptions": (report_programs.assumptions, ("expected",)),
    "left out": (report_programs.left_out, ()),
}
MARKED = re.compile(r"(<!-- table: (?P<name>[\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read_figures(folder: Path) -> dict:
    """The JSON files of a folder by program; `program-part.json` adds rows to `program.json`.

    Raises:
        ValueError: the parts of a program come from different machines or versions.
    """
    figures: dict = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stem):
        program, content = path.stem.split("-")[0], json.loads(path.read_text())
        first = figures.setdefault(program, content)
        if first is content:
            continue
        for key in ("machine", "torch"):
            if first.get(key) != content.get(key):
                raise ValueError(f"{path}: its {key} is not that of the other parts; measure all parts again")
        commits = [first.get("commit"), content.get("commit")]
        first["commit"] = ", ".join(dict.fromkeys(", ".join(filter(None, commits)).split(", ")))
        for key in ("rows", "skipped"):
            first[key] = first.get(key, []) + content.get(key, [])
    return figures


def render(name: str, figures: dict) -> str:
    """One table as Markdown.

    Raises:
        ValueError: there is no table of this name.
    """
    if name not in TABLES:
        raise ValueError(f"table {name!r}: expected one of {', '.join(TABLES)}")
    make, needed = TABLES[name]
    return make(figures) if figures and all(program in figures for program in needed) else NOT_MEASURED


def fill(document: str, figures: dict) -> str:
    """The document with all its tables.

    Raises:
        ValueError: a table is marked that there is not, or none is.
    """
    if not MARKED.search(document):
        raise ValueError("the document has no <!-- table: NAME --> ... <!-- end -->; expected one at least")
    return MARKED.sub(lambda m: f"{m[1]}\n{render(m['name'], figures)}\n\n{m[3]}", document)


def main(words=None) -> None:
    """Reads, fills, and writes or compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, default=ROOT / "benchmarks/figures", help="folder of the JSON files")
    parser.add_argument("--document", type=Path, default=ROOT / "docs/performance.md")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args(words)
    try:
        before = options.document.read_text()
        after = fill(before, read_figures(options.figures))
    except (OSError, ValueError) as error:  # json's errors are ValueErrors
        sys.exit(f"error: {error}")
    if options.check and before != after:
        sys.exit(
            f"{options.document} is not what {options.figures} gives; run bash benchmarks/performance.sh --report-only"
        )
    if not options.check and before != after:
        write_text(options.document, after)


if __name__ == "__main__":
    main()
