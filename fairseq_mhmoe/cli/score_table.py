"""Print what cli.evaluate wrote as a table: every split, all sources together and each of them.

python -m fairseq_mhmoe.cli.score_table runs/english-demo-mhmoe/scores.json
"""

import json
import sys
from pathlib import Path

from fairseq_mhmoe.cli.text_table import text_table

HEADER = ("split", "source", "documents", "tokens", "perplexity", "95 %", "bits/byte")


def rows_of(scores: dict) -> list[list[str]]:
    """Cells of a row for each split, and where it has several sources for each source."""
    rows = []
    for split, figures in scores.items():
        rows.append(row_of(split, "all", figures))
        rows += [row_of(split, name, part) for name, part in figures.get("sources", {}).items()]
    return rows


def row_of(split: str, source: str, figures: dict) -> list[str]:
    """One row; the interval has as many digits as it deserves, and what is not known is a dash."""
    low, high = figures["perplexity_95"]
    bits = figures["bits_per_byte"]
    return [
        split,
        source,
        f"{figures['documents']:,}",
        f"{figures['tokens']:,}",
        f"{figures['perplexity']:.1f}",
        f"{low:.1f}-{high:.1f}",
        "-" if bits is None else f"{bits:.3f}",
    ]


def table(rows: list[list[str]]) -> str:
    """The rows under their header."""
    return text_table(HEADER, rows)


def main(arguments: list[str] | None = None) -> None:
    """Command line: the file; status 1 and one line when it is none of these."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        sys.exit("usage: python -m fairseq_mhmoe.cli.score_table SCORES.json")
    try:
        print(table(rows_of(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        sys.exit(f"error: {arguments[0]} holds no scores of fairseq_mhmoe.cli.evaluate: {error!r}; evaluate again")


if __name__ == "__main__":
    main()
