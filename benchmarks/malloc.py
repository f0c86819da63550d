"""Which malloc a benchmark runs under: a fresh buffer of many MiB costs ten times more under one than under another.

Imports nothing heavy, so that a program can start again before it has loaded torch.
"""

import ctypes.util
import os
import platform
import sys
from pathlib import Path
from typing import Dict, Optional

ALLOCATORS = ("auto", "jemalloc", "glibc")
MARK = "MHMOE_BENCHMARK_ALLOCATOR"  # set before the program starts again: it never does so twice
JEMALLOC_CONF = "dirty_decay_ms:-1,muzzy_decay_ms:-1"
# Large buffers come from the heap, which is never given back: no fresh pages from the kernel in every step.
GLIBC_TUNING = {
    "MALLOC_MMAP_THRESHOLD_": str(2**40),
    "MALLOC_MMAP_MAX_": "0",  # for versions of glibc that refuse such a threshold
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
LIBRARY_FOLDERS = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/homebrew/lib")


def allocator() -> str:
    """Which malloc this process has: fresh buffers of many MiB cost ten times more under one than under another."""
    maps = Path("/proc/self/maps")
    if maps.exists() and "libjemalloc" in maps.read_text():
        return "jemalloc"
    if platform.libc_ver()[0] != "glibc":
        return "other"
    return "glibc tuned" if "MALLOC_MMAP_THRESHOLD_" in os.environ else "glibc"


def add_allocator_option(parser) -> None:
    """Adds --allocator."""
    parser.add_argument(
        "--allocator",
        choices=ALLOCATORS,
        default="auto",
        help="malloc to run under: jemalloc, or glibc with large thresholds (default: jemalloc where there is one)",
    )


def restart_under_allocator(choice: str) -> None:
    """Starts this program again under another malloc, once; returns when it has it already.

    Call it first thing, in `if __name__ == "__main__"` only: it replaces the process.

    Raises:
        SystemExit: jemalloc was asked for and there is none.
    """
    try:
        changes = allocator_environment(choice, os.environ, allocator(), find_jemalloc())
    except ValueError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")
    if changes:
        print(f"benchmark: starting again under {changes[MARK]}", file=sys.stderr, flush=True)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **changes})


def allocator_environment(choice: str, environment, current: str, library: Optional[str]) -> Dict[str, str]:
    """Environment variables that a new start needs; none when nothing is to be changed.

    Args:
        choice: one of ALLOCATORS.
        environment: of this process.
        current: the allocator it has, see `allocator`.
        library: path of jemalloc, None without one.
    Raises:
        ValueError: jemalloc was asked for and there is none.
    """
    if MARK in environment:
        return {}
    if choice == "jemalloc" and library is None and current != "jemalloc":
        raise ValueError(
            "--allocator jemalloc: no libjemalloc found; install it (Debian: apt-get install libjemalloc2) or take "
            "--allocator glibc"
        )
    wanted = "jemalloc" if choice == "jemalloc" or (choice == "auto" and library is not None) else "glibc"
    if wanted == "jemalloc":
        if current == "jemalloc":
            return {}
        preload = " ".join(filter(None, [library, environment.get("LD_PRELOAD", "")]))
        return {MARK: wanted, "LD_PRELOAD": preload, "MALLOC_CONF": JEMALLOC_CONF}
    if current in ("glibc tuned", "other"):
        return {}
    changes = {MARK: wanted, **GLIBC_TUNING}
    if current == "jemalloc":
        others = [word for word in environment.get("LD_PRELOAD", "").split() if "libjemalloc" not in word]
        changes["LD_PRELOAD"] = " ".join(others)
    return changes


def find_jemalloc() -> Optional[str]:
    """Path or name of the library, None without one or where nothing can be preloaded."""
    if platform.system() != "Linux":
        return None
    found = ctypes.util.find_library("jemalloc")
    if found:
        return found
    for folder in map(Path, LIBRARY_FOLDERS):
        for path in sorted([*folder.glob("libjemalloc.so*"), *folder.glob("*/libjemalloc.so*")]):
            return str(path)
    return None
