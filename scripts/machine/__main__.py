"""Runs one of the programs of this folder: `python3 scripts/machine doctor --help`. The standard library is enough."""

import importlib
import sys
from pathlib import Path

PROGRAMS = ("doctor", "versions", "fresh")

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in PROGRAMS:
        sys.exit(f"usage: python3 scripts/machine {{{','.join(PROGRAMS)}}} [OPTIONS]")
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(importlib.import_module(f"machine.{sys.argv[1]}").main(sys.argv[2:]))
