"""Markdown tables of a list of columns: a head, and what stands below it for one entry."""

from typing import Any, Callable, Dict

TEXT = {
    "layer",
    "type",
    "routing",
    "best peer",
    "program",
    "machine",
    "allocator",
    "torch",
    "commit",
    "model",
    "part",
    "activation",
}
TEXT |= {"GPU", "way", "auto", "best", "bound by", "what", "why"}
Columns = Dict[str, Callable[[Any], Any]]


def markdown(entries: list, columns: Columns) -> str:
    """A Markdown table: one line for each entry."""
    marks = ["---" if head in TEXT else "---:" for head in columns]
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join(marks) + "|"]
    for entry in entries:
        lines.append("| " + " | ".join(cell(value(entry)) for value in columns.values()) + " |")
    return "\n".join(lines)


def cell(value: Any) -> str:
    """Text as it is, ratios and times with three digits that mean something, "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return str(value)
