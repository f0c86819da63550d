"""Measured times on a GPU beside those expected on paper, and the tables of docs/performance.md, as FOLDER/report.md.

    python benchmarks/gpu_report.py FOLDER

FOLDER holds what gpu.sh wrote; what is missing there is left out and named.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import report_layer
import report_programs
from performance_report import read_figures
from report_markdown import markdown

from data_prep.files import write_text

BY_CAPABILITY = {7: "V100", 8: "A100", 9: "H100"}
EXPECTED_TYPE = {"float16": "fp16", "bfloat16": "bf16"}


def paper_device(capability: str) -> str:
    """The GPU of expected.py that is nearest to a compute capability: "8.6" -> "A100"."""
    major = int(capability.split(".")[0])
    return BY_CAPABILITY[min(max(major, min(BY_CAPABILITY)), max(BY_CAPABILITY))]


def comparison(figures: dict) -> str:
    """Our layer, forward and backward: what was measured over what was expected.

    The back end bmm is left out: expected.py reckons it with a capacity, moe_layer.py measures it without one.
    """
    device = paper_device(figures["moe_layer"]["machine"]["capability"])
    expected = {}
    for row in figures["expected"]["rows"]:
        if row["device"] == device and row["pass"] == report_layer.BOTH:
            size = EXPECTED_TYPE[row["dtype"]], row["config"], row["tokens"]
            expected[(*size, f"ours_{row['backend']}")] = row
            if row["auto"]:
                expected[(*size, "ours")] = row
    pairs = []
    for case in report_layer.cases(figures):
        for variant in ("ours", "ours_loop", "ours_grouped_mm"):
            paper = expected.get((case.dtype, case.config, case.tokens, variant))
            if paper is not None and case.get(variant, "ms") is not None and not case.swept:
                pairs.append((case, variant, paper))
    columns = {
        **{head: lambda pair, value=value: value(pair[0]) for head, value in report_layer.CASE.items()},
        "what": lambda pair: pair[1],
        "expected ms": lambda pair: pair[2]["ms"],
        "measured ms": lambda pair: pair[0].get(pair[1], "ms"),
        "measured / expected": lambda pair: pair[0].get(pair[1], "ms") / pair[2]["ms"],
        "bare expected ms": lambda pair: pair[2]["limit_ms"],
        "bare measured ms": lambda pair: pair[0].get(report_layer.BARE, "ms"),
        "bound by": lambda pair: report_programs.bound_by(pair[2]),
    }
    head = f"Expected for {device}; the backward pass of the losses is included there and not measured."
    return f"{head}\n\n{markdown(pairs, columns)}"


def report(figures: dict) -> str:
    """All that can be said of these figures."""
    measured = {name: content for name, content in figures.items() if "machine" in content}
    parts = [("What it ran on", report_programs.machine, measured, ())]
    parts += [("Measured and expected", comparison, figures, ("moe_layer", "expected"))]
    for title, make in (
        ("The layer", report_layer.layer),
        ("Other code", report_layer.peers),
        ("Back ends", report_layer.backends),
        ("Skewed routing", report_layer.routing),
        ("Number of experts", report_layer.experts),
        ("Memory", report_layer.memory),
    ):
        parts.append((title, make, figures, ("moe_layer",)))
    for title, make, program in (
        ("Training step", report_programs.step, "train_step"),
        ("Profile", report_programs.profile, "profile_step"),
    ):
        for name in sorted(name for name in figures if name.startswith(program)):
            kind = name.removeprefix(program).strip("_")
            parts.append((f"{title}, {kind}", make, {program: figures[name]}, (program,)))
    parts.append(("Adding up the rows of a sub-token", report_programs.gather_sum, figures, ("gather_sum",)))
    parts.append(("Cross entropy", report_programs.cross_entropy, figures, ("cross_entropy",)))
    parts.append(("Left out", report_programs.left_out, figures, ()))
    lines = ["# Measured on a GPU"]
    for title, make, given, needed in parts:
        missing = [name for name in needed if name not in given]
        text = f"No figures: {', '.join(missing)}.json is not there." if missing else make(given)
        lines += ["", f"## {title}", "", text]
    return "\n".join(lines) + "\n"


def main(words=None) -> None:
    """Reads, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what gpu.sh wrote")
    options = parser.parse_args(words)
    try:
        figures = read_figures(options.folder)
        if not any("machine" in content for content in figures.values()):
            raise ValueError(
                f"{options.folder}: no figures of a benchmark there; expected what benchmarks/gpu.sh writes"
            )
        write_text(options.folder / "report.md", report(figures))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{options.folder / 'report.md'}")


if __name__ == "__main__":
    main()
