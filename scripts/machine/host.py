"""A machine as the checks see it: its files, its programs, its environment. Tests put others in their place."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

OK, WARNING, PROBLEM = "ok", "warning", "problem"
PROBES = Path(__file__).resolve().parent / "probes"
GB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was looked at, how it is, and what to do about it."""

    name: str
    level: str
    text: str
    remedy: str = ""


def ok(name: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(name, OK, text)


def warning(name: str, text: str, remedy: str) -> Finding:
    """Works, but slower, or not in every case."""
    return Finding(name, WARNING, text, remedy)


def problem(name: str, text: str, remedy: str) -> Finding:
    """Something that is needed does not work."""
    return Finding(name, PROBLEM, text, remedy)


@dataclass(frozen=True)
class Answer:
    """What a program answered. status: its exit status; None if it could not be started or did not end in time."""

    status: int | None
    output: str
    errors: str = ""

    @property
    def last_line(self) -> str:
        """The last line of its errors, else of its output: mostly the reason."""
        lines = [line.strip() for text in (self.errors, self.output) for line in text.splitlines() if line.strip()]
        own = [line.strip() for line in self.errors.splitlines() if line.strip()]
        return (own or lines or ["no message"])[-1]


@dataclass
class Machine:
    """Where to look.

    root: this repository. venv: the environment. variables: environment variables. files: what stands for "/" when
    /proc, /sys and /etc are read. save_dir: where checkpoints will go. network: whether the package index may be asked.
    """

    root: Path
    venv: Path
    variables: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    files: Path = Path("/")
    save_dir: Path = Path(".")
    network: bool = False
    answers: dict[str, dict] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """The environment's Python."""
        return self.venv / "bin" / "python"

    @property
    def setup(self) -> str:
        """The line that makes the environment, or completes it."""
        return f"{'' if self.venv == self.root / '.venv' else f'VENV={self.venv} '}bash scripts/setup.sh"

    @property
    def anew(self) -> str:
        """The line that makes the environment again from nothing."""
        return f"rm -r {self.venv} && {self.setup}"

    def read(self, path: str) -> str:
        """A file of the system, "" if there is none."""
        try:
            return (self.files / path.lstrip("/")).read_text(errors="replace").strip()
        except OSError:
            return ""

    def find(self, program: str) -> str | None:
        """Where a program is, as a shell would find it."""
        return shutil.which(program, path=self.variables.get("PATH", os.defpath))

    def run(self, *command: str, seconds: float = 20, **variables: str) -> Answer:
        """A program with all its children, which are ended when the time is up."""
        try:
            process = subprocess.Popen(
                command,
                cwd=str(self.root),
                env={**self.variables, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                universal_newlines=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            return Answer(None, "", str(error))
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return Answer(None, "", f"no answer after {seconds:g} s")
        return Answer(process.returncode, output, errors)

    def ask(self, probe: str, *words: str, seconds: float = 120, **variables: str) -> dict:
        """What a probe says, run by the environment's Python: its JSON, or {"error": why there is none}."""
        if probe not in self.answers:
            answer = self.run(str(self.python), str(PROBES / f"{probe}.py"), *words, seconds=seconds, **variables)
            self.answers[probe] = _read(answer)
        return self.answers[probe]

    def ask_self(self, probe: str, *words: str, seconds: float = 20) -> dict:
        """The same, run by the Python that runs this: for what may hang and needs nothing but it."""
        return _read(self.run(sys.executable, str(PROBES / f"{probe}.py"), *words, seconds=seconds))


def _read(answer: Answer) -> dict:
    """The last line of a probe's output: libraries print lines of their own before."""
    try:
        return json.loads(answer.output.strip().splitlines()[-1])
    except (IndexError, ValueError):
        if answer.status is not None and answer.status < 0:
            return {"error": f"ended by signal {-answer.status}: {answer.last_line}"}
        return {"error": answer.last_line}
