"""The machine itself: processors, memory, disks, limits, text. What a container is given counts, not its host."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from .host import GB, Finding, Machine, ok, problem, warning

NEEDED_MEMORY = 6 * GB
NEEDED_SHARED = GB
NEEDED_ENVIRONMENT = 9 * GB  # scripts/setup.sh, with what pip unpacks meanwhile
NEEDED_SAVING = 5 * GB
NEEDED_TEMPORARY = 2 * GB
NO_LIMIT = 2**60  # cgroup v1 writes "no limit" as a number near 2^63


def system(machine: Machine) -> Iterator[Finding]:
    """Operating system and processor."""
    release = re.search(r'^PRETTY_NAME="?([^"\n]+)', machine.read("/etc/os-release"), re.MULTILINE)
    name = release.group(1) if release else "unknown distribution"
    text = f"{platform.system()} {platform.release()}, {name}, {platform.machine()}"
    if platform.system() != "Linux":
        yield problem("system", text, "use Linux, or a Linux container (docker/README.md)")
    elif platform.machine() != "x86_64":
        yield warning("system", f"{text}: nothing was tested on this processor", "run bash scripts/test.sh first")
    else:
        yield ok("system", text)


def cgroup_value(machine: Machine, second: str, first: str) -> str:
    """A limit of this process's group: file of version 2, else of version 1; "" if there is none."""
    own = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in _lines(machine, "/proc/self/cgroup")}
    controller = first.split("/", 1)[0]
    places = [f"/sys/fs/cgroup{own.get('', '/')}/{second}", f"/sys/fs/cgroup/{second}"]
    places += [f"/sys/fs/cgroup/{controller}{own.get(controller, '/')}/{first.split('/', 1)[1]}"]
    places += [f"/sys/fs/cgroup/{first}"]
    return next(filter(None, map(machine.read, places)), "")


def _lines(machine: Machine, path: str) -> list[str]:
    return [line for line in machine.read(path).splitlines() if line.count(":") >= 2]


def processors(machine: Machine) -> Iterator[Finding]:
    """Cores of the machine, and how many this process may use."""
    cores = os.cpu_count() or 1
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores)
    quota = cgroup_value(machine, "cpu.max", "cpu/cpu.cfs_quota_us").split()
    if len(quota) == 2 and quota[0].isdigit():
        allowed = min(allowed, int(quota[0]) / int(quota[1]))
    elif len(quota) == 1 and quota[0].isdigit():
        period = int(cgroup_value(machine, "cpu.max", "cpu/cpu.cfs_period_us") or 100000)
        allowed = min(allowed, int(quota[0]) / period)
    if allowed < cores:
        threads = max(1, int(allowed))
        yield warning(
            "processors",
            f"{cores} cores, of which this process may use {allowed:g}: torch starts too many threads",
            f"export OMP_NUM_THREADS={threads}   # or give the container more: docker run --cpus, srun --cpus-per-task",
        )
    else:
        yield ok("processors", f"{cores} cores")


def memory(machine: Machine) -> Iterator[Finding]:
    """Memory that is free here, within the group's limit."""
    facts = dict(re.findall(r"^(\w+):\s+(\d+) kB", machine.read("/proc/meminfo"), re.MULTILINE))
    if "MemTotal" not in facts:
        yield warning("memory", "/proc/meminfo can't be read", "mount /proc")
        return
    total = int(facts["MemTotal"]) * 1024
    free = int(facts.get("MemAvailable", facts["MemTotal"])) * 1024
    limit = cgroup_value(machine, "memory.max", "memory/memory.limit_in_bytes")
    text = f"{free / GB:.1f} of {total / GB:.1f} GB free"
    if limit.isdigit() and int(limit) < min(total, NO_LIMIT):
        used = cgroup_value(machine, "memory.current", "memory/memory.usage_in_bytes")
        free = min(free, int(limit) - int(used or 0))
        text += f"; this process's group may have {int(limit) / GB:.1f} GB, {free / GB:.1f} of them free"
    if free < NEEDED_MEMORY:
        remedy = "end other programs, or raise the limit (docker run --memory, srun --mem); compile with MAX_JOBS=1"
        yield warning("memory", f"{text}; the demonstration and the tests take {NEEDED_MEMORY // GB}", remedy)
    else:
        yield ok("memory", text)


def free_space(machine: Machine, path: Path) -> int | None:
    """Free bytes where a path is or will be; None if that can't be said."""
    path = machine.root / path
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(str(path)).free
    except OSError:
        return None


def disks(machine: Machine) -> Iterator[Finding]:
    """Room for the environment, for temporary files and for checkpoints."""
    temporary = Path(machine.variables.get("TMPDIR") or "/tmp")
    places = [("disk: TMPDIR", temporary, NEEDED_TEMPORARY, "export TMPDIR=/a/larger/disk")]
    places += [("disk: checkpoints", machine.save_dir, NEEDED_SAVING, "--save-dir on a larger disk")]
    if not machine.python.exists():
        remedy = "VENV=/a/larger/disk/venv bash scripts/setup.sh"
        places.insert(0, ("disk: environment", machine.venv, NEEDED_ENVIRONMENT, remedy))
    for name, path, needed, remedy in places:
        free = free_space(machine, path)
        if free is None or not _is_writable(machine.root / path):
            yield problem(name, f"{path} can't be written", remedy)
        elif free < needed:
            level = problem if name == "disk: environment" else warning
            yield level(name, f"{free / GB:.1f} GB free for {path}, {needed // GB} wanted", remedy)
        else:
            yield ok(name, f"{free / GB:.0f} GB free for {path}")


def _is_writable(path: Path) -> bool:
    while not path.exists() and path != path.parent:
        path = path.parent
    return os.access(str(path), os.W_OK)


def shared_memory(machine: Machine) -> Iterator[Finding]:
    """/dev/shm, through which data workers hand over their batches."""
    path = machine.files / "dev/shm"
    if not path.is_dir():
        yield problem("shared memory", "there is no /dev/shm; data workers need it", "mount -t tmpfs tmpfs /dev/shm")
        return
    size = shutil.disk_usage(str(path)).total
    if size < NEEDED_SHARED:
        yield warning(
            "shared memory",
            f'/dev/shm has {size / 2**20:.0f} MB: data workers end with "bus error" when it is full',
            "docker run --ipc=host, or --shm-size=8g; without a container --num-workers 0 does without it",
        )
    else:
        yield ok("shared memory", f"{size / GB:.1f} GB in /dev/shm")


def limits(machine: Machine) -> Iterator[Finding]:
    """What one process, and one user, may have."""
    wanted = [
        ("open files", resource.RLIMIT_NOFILE, 4096, "ulimit -n 65536   # docker run --ulimit nofile=65536"),
        ("processes", resource.RLIMIT_NPROC, 4096, "ulimit -u 65536   # else in /etc/security/limits.conf"),
    ]
    if list((machine.files / "sys/class/infiniband").glob("*")):
        remedy = "ulimit -l unlimited   # docker run --ulimit memlock=-1; Slurm: PropagateResourceLimitsExcept=MEMLOCK"
        wanted.append(("locked memory for InfiniBand", resource.RLIMIT_MEMLOCK, 2**30, remedy))
    for name, kind, least, remedy in wanted:
        value = resource.getrlimit(kind)[0]
        if value != resource.RLIM_INFINITY and value < least:
            yield warning("limits", f"{name}: {value}, {least} wanted", remedy)
        else:
            yield ok("limits", f"{name}: {'no limit' if value == resource.RLIM_INFINITY else value}")


def text_encoding(machine: Machine) -> Iterator[Finding]:
    """Whether programs read and write UTF-8 here."""
    name = next((machine.variables[key] for key in ("LC_ALL", "LC_CTYPE", "LANG") if machine.variables.get(key)), "")
    # Python takes UTF-8 where nothing, C or POSIX is set
    if name in ("", "C", "POSIX") or re.search(r"utf-?8", name, re.IGNORECASE):
        yield ok("text", f"UTF-8 (locale {name or 'not set'})")
    else:
        yield problem("text", f"locale {name}: not every text can be read and printed", "export LC_ALL=C.UTF-8")


def clock(machine: Machine) -> Iterator[Finding]:
    """A clock that lies far behind makes certificates invalid and file times useless."""
    newest = max((path.stat().st_mtime for path in machine.root.glob("*.*")), default=0.0)
    behind = newest - time.time()
    if behind > 3600:
        text = f"files of this repository are {behind / 3600:.0f} hours younger than now"
        yield warning("clock", text, "set it: timedatectl set-ntp true")
    else:
        yield ok("clock", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def file_system(machine: Machine) -> Iterator[Finding]:
    """What --save-dir lies on, and whether locks work there."""
    place = machine.root / machine.save_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    kind = machine.run("stat", "-f", "-c", "%T", str(place)).output.strip() or "unknown"
    probe = machine.ask_self("lock", str(place))
    if probe.get("error"):
        yield warning(
            "file system",
            f"{place} ({kind}): files can't be locked: {probe['error']}",
            "prepare data and save checkpoints on another file system, or mount it with locks (NFS: without nolock)",
        )
    elif kind in ("overlayfs", "overlay") and (machine.files / ".dockerenv").exists():
        remedy = "mount a folder for checkpoints: docker run --volume /data:/data, --save-dir /data/run"
        yield warning("file system", f"{place} lies in the container and goes with it", remedy)
    else:
        yield ok("file system", f"{place}: {kind}, locks work")


CHECKS = (system, processors, memory, disks, shared_memory, limits, text_encoding, clock, file_system)
