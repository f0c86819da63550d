"""Makes an environment for each pair of Python and torch, runs tests in it, and tells what passed."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from .files import commit, remove_folder, table, write_json
from .host import Machine

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.10", "3.11", "3.12")
TORCHES = ("2.6", "2.8", "2.14")
TORCHVISION_AHEAD = 15  # torchvision 0.(N + 15) belongs to torch 2.N
END_TO_END = "tests/end_to_end/test_train_and_evaluate.py"
FOLDERS = ("moe", "models", "checkpoint", "integration", "criterions", "data")
CHOSEN = [f"tests/{name}" for name in FOLDERS] + [
    "tests/distributed/test_exchange.py",
    "tests/distributed/test_resume.py",
    END_TO_END,
]
TESTS = {"chosen": ["-m", "not slow", *CHOSEN], "full": ["tests"], "quick": [END_TO_END]}
HEAD = [
    "Python",
    "torch",
    "torchvision",
    "numpy",
    "tests",
    "result",
    "passed",
    "failed",
    "skipped",
    "seconds",
    "commit",
]


class Pair(NamedTuple):
    """Versions as they are asked for: "3.10" and "2.6"."""

    python: str
    torch: str

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"python{self.python}-torch{self.torch}"


def read_pairs(text: str) -> list[Pair]:
    """ "3.10:2.6,3.12:2.8" -> pairs; raises ArgumentTypeError with what is wrong."""
    pairs = []
    for word in filter(None, text.split(",")):
        if not re.fullmatch(r"3\.\d+:2\.\d+(\.\d+)?", word):
            raise argparse.ArgumentTypeError(f"'{word}' is no pair of Python and torch; give such as 3.10:2.6,3.12:2.8")
        pairs.append(Pair(*word.split(":")))
    if not pairs:
        raise argparse.ArgumentTypeError("no pairs; give such as 3.10:2.6,3.12:2.8")
    return list(dict.fromkeys(pairs))


def make_parser() -> argparse.ArgumentParser:
    """Options of the program."""
    parser = argparse.ArgumentParser(prog="scripts/supported_versions.sh", description=__doc__, allow_abbrev=False)
    every = [Pair(python, torch) for python in PYTHONS for torch in TORCHES]
    parser.add_argument("--pairs", type=read_pairs, default=every, help="such as 3.10:2.6,3.12:2.8 (default: all nine)")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--full", dest="tests", action="store_const", const="full", help="all tests")
    amount.add_argument("--quick", dest="tests", action="store_const", const="quick", help="one training and its use")
    default = Path(tempfile.gettempdir(), f"fairseq-mhmoe-versions-{os.getuid()}")
    parser.add_argument("--folder", type=Path, default=default, help=f"where environments are made ({default})")
    parser.add_argument("--json", type=Path, default=ROOT / "runs/versions/versions.json", help="the results")
    parser.add_argument("--again", action="store_true", help="repeat what has passed at this commit")
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    parser.add_argument("--workers", type=int, default=2, help="test processes (default: 2)")
    parser.set_defaults(tests="chosen")
    return parser


def find_python(version: str, machine: Machine) -> str | None:
    """A Python of this version that works: on PATH, else of pyenv."""
    pyenv = Path(machine.variables.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [machine.find(f"python{version}")]
    candidates += sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python{version}")), reverse=True)
    for path in filter(None, candidates):
        if machine.run(path, "--version").output.startswith(f"Python {version}."):
            return path
    return None


def torch_spec(version: str, constraints: str) -> str | None:
    """What scripts/setup.sh is to install; None: the pinned version, which is of this kind."""
    pinned = re.search(r"^torch==(\S+)", constraints, re.MULTILINE)
    if pinned and (pinned.group(1) + ".").startswith(version + "."):
        return None
    series = version.split(".")[:2]
    exact = version if version.count(".") == 2 else f"{version}.*"
    return f"torch=={exact} torchvision==0.{int(series[1]) + TORCHVISION_AHEAD}.*"


def counts(report: Path) -> dict[str, int]:
    """passed, failed and skipped of a JUnit file; failed = 1 if there is none: the tests did not end."""
    try:
        suites = list(ElementTree.parse(str(report)).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return {"passed": 0, "failed": 1, "skipped": 0}
    total, failed, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    return {"passed": total - failed - errors - skipped, "failed": failed + errors, "skipped": skipped}


class Matrix:
    """The results so far, and how one more comes to them."""

    def __init__(self, machine: Machine, arguments: argparse.Namespace):
        self.machine, self.arguments = machine, arguments
        self.commit = commit(machine.root)
        self.rows: list[dict[str, Any]] = []
        if arguments.json.exists():
            self.rows = json.loads(arguments.json.read_text())["results"]

    def finished(self, pair: Pair) -> bool:
        """Whether this pair passed these tests at this commit; files that differ from it might be others now."""
        if self.commit.endswith("+"):
            return False
        wanted = {"asked": list(pair), "tests": self.arguments.tests, "commit": self.commit, "result": "passed"}
        return any(all(row.get(key) == value for key, value in wanted.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Puts a result in the place of an older one of the same pair and tests, and writes the file."""
        same = ("asked", "tests")
        self.rows = [old for old in self.rows if any(old[key] != row[key] for key in same)] + [row]
        self.rows.sort(key=lambda row: [[int(part) for part in word.split(".")] for word in row["asked"]])
        facts = {"machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores", "results": self.rows}
        write_json(self.arguments.json, facts)

    def run(self, pair: Pair) -> dict[str, Any]:
        """Makes the environment, runs the tests, removes the environment -> the result."""
        row: dict[str, Any] = {"asked": list(pair), "tests": self.arguments.tests, "commit": self.commit}
        python = find_python(pair.python, self.machine)
        if python is None:
            return dict(row, result=f"no Python {pair.python} here")
        folder = self.arguments.folder / pair.name
        folder.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        try:
            return dict(row, **self._try(pair, python, folder), seconds=round(time.monotonic() - start))
        finally:
            if not self.arguments.keep:
                remove_folder(folder)

    def _try(self, pair: Pair, python: str, folder: Path) -> dict[str, Any]:
        venv, report = folder / "venv", folder / "tests.xml"
        log = self.arguments.json.parent / f"{pair.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        if report.exists():
            report.unlink()
        settings = {"VENV": str(venv), "PYTHON": python, "TMPDIR": str(folder)}
        spec = torch_spec(pair.torch, (self.machine.root / "constraints.txt").read_text())
        print(f"{pair.name}: environment, with {python}; log: {log}", flush=True)
        if self._call(log, ["bash", "scripts/setup.sh"], settings, TORCH_SPEC=spec) != 0:
            return {"result": "no environment", **self._facts(venv)}
        print(f"{pair.name}: {self.arguments.tests} tests", flush=True)
        words = [
            str(venv / "bin/python"),
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--timeout",
            "1200",
            f"--junitxml={report}",
        ]
        words += ["-n", str(self.arguments.workers), "--dist", "loadfile"] if self.arguments.workers > 1 else []
        threads = {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
        status = self._call(log, [*words, *TESTS[self.arguments.tests]], threads)
        found = counts(report)
        result = "passed" if status == 0 and found["failed"] == 0 and found["passed"] > 0 else "failed"
        return {"result": result, **found, **self._facts(venv)}

    def _call(self, log: Path, command: list[str], settings: dict[str, str], **chosen: str | None) -> int:
        """A program whose words go to the log -> its exit status; it ends when this program is ended."""
        variables = {**self.machine.variables, **settings}
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TORCH_SPEC"):
            variables.pop(name, None)
        variables.update({name: value for name, value in chosen.items() if value is not None})
        with open(log, "a") as file:
            process = subprocess.Popen(
                command, cwd=str(self.machine.root), env=variables, stdout=file, stderr=file, start_new_session=True
            )
            try:
                return process.wait()
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def _facts(self, venv: Path) -> dict[str, str]:
        """Versions that are really there."""
        machine = Machine(self.machine.root, venv, variables=self.machine.variables)
        found = machine.ask("versions")
        return {name: found[name] for name in ("python", "torch", "torchvision", "numpy") if found.get(name)}


def print_table(rows: list[dict[str, Any]]) -> None:
    """The results as Markdown."""
    keys = [name.lower() for name in HEAD]
    asked = [{"python": row["asked"][0], "torch": row["asked"][1], **row} for row in rows]
    print(table(HEAD, [[str(row.get(key, "-")) for key in keys] for row in asked]))


def main(words: list[str] | None = None) -> int:
    """Runs what is asked for -> exit status 0: all that was asked for has passed, 1: not all."""
    arguments = make_parser().parse_args(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with open(arguments.folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit(f"another supported_versions.sh is at work in {arguments.folder}: wait for it, or give --folder")
        matrix = Matrix(Machine(ROOT, ROOT / ".venv"), arguments)
        for pair in arguments.pairs:
            if matrix.finished(pair) and not arguments.again:
                print(f"{pair.name}: passed before at this commit")
                continue
            row = matrix.run(pair)
            matrix.add(row)
            print(f"{pair.name}: {row['result']}", flush=True)
    if not arguments.keep:
        shutil.rmtree(arguments.folder, ignore_errors=True)
    asked = [list(pair) for pair in arguments.pairs]
    rows = [row for row in matrix.rows if row["asked"] in asked and row["tests"] == arguments.tests]
    print_table(rows)
    print(f"written: {arguments.json}")
    return int(any(row["result"] != "passed" for row in rows))
