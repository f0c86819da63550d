"""Running stock programs as subprocesses: command lines, logs, figures, and when a result may be used again."""

import hashlib
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
# What decides the numbers; the rooms that only start or read (cli, evaluation) may change without training anew.
CODE_THAT_COUNTS = ("moe", "models", "criterions", "tasks", "data", "integration")
LAST_LINES = 15
# Waiting threads that spin cost a busy machine two thirds of its speed; large buffers that are handed back to the
# system and fetched anew at every update cost a tenth.
FASTER_ON_THE_CPU = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
}


class StepFailed(Exception):
    """A program ended with an error; the message says where its output is."""


def say(text: str = "") -> None:
    """Print a line at once, also into a pipe; in one piece, since several threads have something to say."""
    print(f"{text}\n", end="", flush=True)


def show(command: list[str]) -> None:
    """Print a command line that can be copied."""
    say(f"      $ {shlex.join(command)}")


def minutes(seconds: float) -> str:
    """75 -> "1:15"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def shorten(path: Path) -> str:
    """Relative to the working directory where the path lies inside it: commands can then be copied."""
    path = Path(os.path.abspath(path))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def program(name: str) -> str:
    """Path of a program of this environment."""
    return shorten(Path(sys.executable).with_name(name))


def run(command: list[str], log: Path, threads: int, on_line=None, on_start=None) -> str:
    """Run a program and return its output, which is also appended to a log file and handed on line by line.

    The program inherits open files that are inheritable (the lock of the demonstration), and is ended when this one is.

    Args:
        on_line: called with every line. on_start: called with the process.
    Raises:
        StepFailed: it ended with an error.
    """
    environment = FASTER_ON_THE_CPU | os.environ
    environment |= {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore", "LOGLEVEL": "INFO"}
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            close_fds=False,
        )
        try:
            if on_start is not None:
                on_start(process)
            for line in process.stdout:
                lines.append(line)
                file.write(line)
                file.flush()
                if on_line is not None:
                    on_line(line)
        except BaseException:
            process.terminate()
            raise
        finally:
            status = process.wait()
    if status != 0:
        last = "".join(lines[-LAST_LINES:])
        raise StepFailed(f"{last}\nexit status {status} of: {shlex.join(command)}\nits whole output: {log}")
    return "".join(lines)


def log_figures(line: str, tag: str) -> dict | None:
    """The figures of one line of fairseq's JSON log with this tag (train_inner, train, valid), else None.

    A line that was cut when its program was killed has none.
    """
    _, found, text = line.partition(f"| {tag} | ")
    try:
        return json.loads(text) if found and text.startswith("{") else None
    except ValueError:
        return None


def median_speed(log: Path) -> float | None:
    """Tokens per second of a training, the median over the lines of its JSON log; None without any."""
    lines = log.read_text(encoding="utf-8").splitlines()
    speeds = [float(figures["wps"]) for line in lines if (figures := log_figures(line, "train_inner"))]
    return statistics.median(speeds) if speeds else None


def fingerprint(*parts) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_hash() -> str:
    """SHA-256 over the source files that training runs through."""
    digest = hashlib.sha256()
    for room in CODE_THAT_COUNTS:
        for path in sorted((PACKAGE / room).rglob("*.py")):
            digest.update(f"{path.relative_to(PACKAGE)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def data_hash(manifest: dict) -> str:
    """SHA-256 over the hashes that the manifest of a prepared folder states."""
    return fingerprint(manifest["splits"], manifest["dictionary"])


def finished(path: Path, key: str) -> dict | None:
    """The result of a step that was made under the same key, else None."""
    try:
        result = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return result if result.get("fingerprint") == key else None
