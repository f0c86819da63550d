"""How much memory a process takes and how much its machine has left, in GiB; read from the system, without waiting."""

import os
import resource
import sys
from pathlib import Path
from typing import Optional

GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")  # of a container, version 2


def resident_gib() -> float:
    """Memory of this process that is not shared out to disk; where the system does not tell, the most it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / GIB
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def available_gib() -> Optional[float]:
    """Memory that a process may still take: of the machine, or of its container if that has less; None: not known."""
    known = [amount for amount in (_of_machine(), _of_container()) if amount is not None]
    return min(known) / GIB if known else None


def _of_machine() -> Optional[int]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    amounts = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return amounts[0] if amounts else None


def _of_container() -> Optional[int]:
    """Limit less use; what is only a copy of files on disk can be given up, and does not count as used."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        kinds = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) - used + int(kinds.get("inactive_file", 0))
