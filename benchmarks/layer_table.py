"""The rows of benchmarks/moe_layer.py as text."""

from itertools import groupby
from typing import Dict, List

KEYS = ("config", "num_experts", "dtype", "tokens")
LEFT_OUT = "left out by --quick"
HEAD = "| variant | forward ms | x bare | x dense | forward+backward ms | x bare | x dense | saved MiB | |"
RULE = "|---|" + "---:|" * 7 + "---|"


def table(rows: List[Dict]) -> str:
    """The rows of one case."""
    first = rows[0]
    lines = [f"{first['config']} N={first['num_experts']} {first['dtype']} {first['tokens']} tokens", HEAD, RULE]
    by_pass = {(_label(row), row["pass"]): row for row in rows}
    for label in dict.fromkeys(label for label, _ in by_pass):
        passes = [by_pass[label, name] for name in ("forward", "forward+backward")]
        cells = [label, *(cell for row in passes for cell in _times(row)), _number(passes[1]["saved_mib"], 1)]
        lines.append("| " + " | ".join([*cells, _remark(passes[1])]) + " |")
    return "\n".join(lines)


def list_of_skipped(skipped: List[Dict]) -> str:
    """What was not measured, by reason; "" when everything was."""
    lines = ["not measured:"] if skipped else []
    for reason, group in groupby(sorted(skipped, key=lambda row: row["reason"]), key=lambda row: row["reason"]):
        what = [f"    {_what(row)}" for row in group]
        lines += [f"  {reason}: {len(what)} cases or parts"] if reason == LEFT_OUT else [f"  {reason}", *what]
    return "\n".join(lines)


def _label(row: Dict) -> str:
    return row["variant"] if row["routing"] == "balanced" else f"{row['variant']}, {row['routing']}"


def _times(row: Dict) -> List[str]:
    return [_number(row["ms"], 1), _number(row["ratio_limit"], 2), _number(row["ratio_dense"], 2)]


def _remark(row: Dict) -> str:
    parts = [row["way"]] if "way" in row else []
    parts += ["one run"] if row["runs"] == 1 else []
    return "; ".join(parts + ([row["note"]] if "note" in row else []))


def _what(row: Dict) -> str:
    words = " ".join(str(row[key]) for key in KEYS if key in row)
    return f"{words}: {' '.join(row['variants'])}"


def _number(value, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
