"""Looks at the machine and at the environment, and says what is wrong and what to do about it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from . import checks_environment, checks_gpu, checks_host, checks_network
from .host import OK, PROBLEM, WARNING, Finding, Machine, warning

WIDTH = 120
NAME_WIDTH = 20


def make_parser() -> argparse.ArgumentParser:
    """Options of the program."""
    parser = argparse.ArgumentParser(prog="scripts/doctor.sh", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--network", action="store_true", help="ask the package index too: fetches one small package")
    parser.add_argument("--save-dir", type=Path, default=Path("."), help="where checkpoints will go (default: here)")
    return parser


def sections(machine: Machine) -> Iterator[tuple[str, tuple[Callable[[Machine], Iterator[Finding]], ...]]]:
    """Titles and checks; those inside the environment only if there is one."""
    yield "machine", checks_host.CHECKS
    yield "environment", checks_environment.BEFORE
    if machine.python.exists():
        yield "packages", checks_environment.INSIDE
        yield "GPUs", checks_gpu.CHECKS
        yield "processes", checks_network.CHECKS
    else:
        yield "GPUs", checks_gpu.CHECKS[:1]
        yield "processes", checks_network.WITHOUT_TORCH


def findings(machine: Machine, check: Callable[[Machine], Iterator[Finding]]) -> list[Finding]:
    """What one check finds; that it does not work here is a finding too."""
    try:
        return list(check(machine))
    except Exception as error:
        text = f"this check failed: {type(error).__name__}: {error}"
        return [warning(check.__name__.replace("_", " "), text, "look at it by hand; the other checks hold")]


def lines(finding: Finding) -> str:
    """A finding as it is printed."""
    head = f"  {finding.level:<9}{finding.name:<{NAME_WIDTH}}"
    text = textwrap.fill(finding.text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    return text + (f"\n{' ' * len(head)}-> {finding.remedy}" if finding.remedy else "")


def main(words: list[str] | None = None) -> int:
    """Runs all checks -> exit status: 1 if there is a problem."""
    arguments = make_parser().parse_args(words)
    root = Path(__file__).resolve().parents[2]
    venv = Path.cwd() / (os.environ.get("VENV") or root / ".venv")
    machine = Machine(root, venv, save_dir=Path.cwd() / arguments.save_dir, network=arguments.network)
    found: list[tuple[str, Finding]] = []
    for title, checks in sections(machine):
        if not arguments.json:
            print(title)
        for check in checks:
            for finding in findings(machine, check):
                found.append((title, finding))
                if not arguments.json:
                    print(lines(finding), flush=True)
    counts = Counter(finding.level for _, finding in found)
    if arguments.json:
        rows = [{"section": title, **vars(finding)} for title, finding in found]
        print(json.dumps({"problems": counts[PROBLEM], "warnings": counts[WARNING], "findings": rows}, indent=2))
    else:
        print(f"doctor: {counts[PROBLEM]} problems, {counts[WARNING]} warnings, {counts[OK]} ok")
    return int(counts[PROBLEM] > 0)


if __name__ == "__main__":
    sys.exit(main())
