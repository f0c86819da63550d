"""Tries the two commands of README.md as somebody does who has just come to this machine, timed, with a log."""

from __future__ import annotations

import argparse
import os
import platform
import pwd
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .files import commit, remove_folder, table, write_json

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("run", "test")
# what a machine's owner sets so that pip reaches its index; nothing that says where pip or others keep files
KEPT = re.compile(
    r"(https?|all|no)_proxy|(SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE)"
    r"|PIP_((EXTRA_)?INDEX_URL|TRUSTED_HOST|CERT|FIND_LINKS|DEFAULT_TIMEOUT|RETRIES|CONSTRAINT|PROXY|CLIENT_CERT)",
    re.IGNORECASE,
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
GB = 2**30


def make_parser() -> argparse.ArgumentParser:
    """Options of the program."""
    parser = argparse.ArgumentParser(prog="scripts/fresh_machine_test.sh", description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", choices=STEPS, help="one of the two commands")
    parser.add_argument("--repository", default=str(ROOT), help="what is cloned (default: this one)")
    parser.add_argument("--python", help="folder that comes first on PATH, for a Python that is not the system's")
    parser.add_argument("--new-user", action="store_true", help="as a user of its own, made and removed (root only)")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/fresh-machine", help="folder of log and summary")
    parser.add_argument("--hours", type=float, default=3.0, help="a command that takes longer is ended (default: 3)")
    parser.add_argument("--keep", action="store_true", help="keep the new home, and say where it is")
    return parser


def fresh_environment(home: Path, user: str, python: str | None, variables: dict[str, str]) -> dict[str, str]:
    """The environment of a user who has set nothing; proxies, certificates and package indexes stay as they are."""
    kept = {name: value for name, value in variables.items() if KEPT.fullmatch(name)}
    path = f"{python}:{PATH}" if python else PATH
    own = {"HOME": home, "TMPDIR": home / "tmp", "USER": user, "LOGNAME": user, "PATH": path, "LANG": "C.UTF-8"}
    return {**kept, **{name: str(value) for name, value in own.items()}, "SHELL": "/bin/bash"}


class FreshUser:
    """A home that did not exist before, and with new_user a user who did not; leaves nothing behind."""

    def __init__(self, new_user: bool, keep: bool):
        self.home = Path(tempfile.mkdtemp(prefix="fresh-machine-"))
        self.keep, self.made = keep, ""
        self.name = pwd.getpwuid(os.getuid()).pw_name
        if new_user:
            name = f"fresh{os.getpid()}"
            subprocess.run(
                ["useradd", "--no-create-home", "--home-dir", str(self.home), "--shell", "/bin/bash", name], check=True
            )
            self.name = self.made = name
        (self.home / "tmp").mkdir()
        self.take(self.home)

    def take(self, folder: Path) -> None:
        """Makes a folder and all in it this user's."""
        if self.made:
            subprocess.run(["chown", "--recursive", "--no-dereference", f"{self.made}:", str(folder)], check=True)

    def command(self, words: list[str]) -> list[str]:
        """These words, run as this user."""
        return ["runuser", "--user", self.made, "--", *words] if self.made else words

    def remove(self) -> None:
        """Takes the user and the home away again."""
        if self.made:
            subprocess.run(["userdel", self.made], check=False)
        if self.keep:
            print(f"kept: {self.home}")
        else:
            remove_folder(self.home)


class Trial:
    """Runs commands as a fresh user; what they print goes to one log, with the time before every line."""

    def __init__(self, user: FreshUser, variables: dict[str, str], log: Path, seconds: float):
        self.user, self.variables, self.log, self.seconds = user, variables, log, seconds
        self.start = time.monotonic()

    def run(self, title: str, words: list[str], folder: Path) -> dict[str, Any]:
        """A command -> seconds, exit status (None: it took too long), its last line."""
        start, last = time.monotonic(), ""
        self.write(f"== {title}: {' '.join(words)}")
        print(f"fresh machine: {title}: {' '.join(words)}", flush=True)
        # git refuses to clone what belongs to another user
        process = subprocess.Popen(
            words if title == "clone" else self.user.command(words),
            cwd=str(folder),
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        late = False

        def end(*_):
            nonlocal late
            late = True
            os.killpg(process.pid, signal.SIGKILL)

        signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)
        try:
            for line in process.stdout:
                self.write(line.rstrip("\n"))
                last = line.strip() or last
            status: int | None = process.wait()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        status = None if late else status
        seconds = time.monotonic() - start
        print(f"fresh machine: {title}: {outcome(status)} after {seconds:.0f} s", flush=True)
        return {"step": title, "status": status, "seconds": round(seconds, 1), "last_line": last}

    def write(self, line: str) -> None:
        """One line into the log, with the seconds since the beginning."""
        with open(self.log, "a") as file:
            file.write(f"{time.monotonic() - self.start:8.1f} {line}\n")


def outcome(status: int | None) -> str:
    """An exit status in words."""
    return "took too long" if status is None else "passed" if status == 0 else f"failed with exit status {status}"


def folder_size(path: Path) -> int:
    """Bytes on disk of what is in a folder, links not followed."""
    size = 0
    for folder, _, names in os.walk(str(path)):
        for name in names:
            try:
                size += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except OSError:
                continue
    return size


def steps(arguments: argparse.Namespace, trial: Trial) -> list[dict[str, Any]]:
    """Clones and runs the commands; without a clone there is nothing to run."""
    clone = trial.user.home / "fairseq-mhmoe"
    words = ["git", "clone", "--quiet", "--no-local", arguments.repository, str(clone)]
    done = [trial.run("clone", words, trial.user.home)]
    if done[0]["status"] != 0:
        return done
    trial.user.take(clone)
    for name in STEPS if arguments.only is None else (arguments.only,):
        more = shlex.split(os.environ.get(f"FRESH_{name.upper()}_ARGUMENTS", ""))
        done.append(trial.run(name, ["bash", f"scripts/{name}.sh", *more], clone))
        done[-1]["arguments"] = more
        done[-1]["gb"] = round(folder_size(trial.user.home) / GB, 2)
    return done


def main(words: list[str] | None = None) -> int:
    """Makes a fresh user, runs the commands, removes the user -> exit status 0: all commands passed."""
    arguments = make_parser().parse_args(words)
    if arguments.new_user and os.getuid() != 0:
        make_parser().error("--new-user makes a user: only root can; leave it out for a new home alone")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments.output.mkdir(parents=True, exist_ok=True)
    log = arguments.output / "log.txt"
    log.write_text("")
    here = Path(arguments.repository)
    at = commit(here) if here.is_dir() else "unknown"
    if at.endswith("+"):
        print("fresh machine: files here differ from the last commit; what is committed is tried")
    user = FreshUser(arguments.new_user, arguments.keep)
    try:
        variables = fresh_environment(user.home, user.name, arguments.python, dict(os.environ))
        done = steps(arguments, Trial(user, variables, log, arguments.hours * 3600))
    finally:
        user.remove()
    passed = all(step["status"] == 0 for step in done)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    facts = {"commit": at.rstrip("+"), "machine": machine, "new_user": arguments.new_user, "passed": passed}
    write_json(arguments.output / "summary.json", {**facts, "kept_variables": sorted(set(variables)), "steps": done})
    head = ["command", "result", "minutes", "GB in the home", "last line"]
    rows = [
        [
            step["step"],
            outcome(step["status"]),
            f"{step['seconds'] / 60:.1f}",
            str(step.get("gb", "-")),
            step["last_line"],
        ]
        for step in done
    ]
    print(table(head, [[cell[:60] for cell in row] for row in rows]))
    print(f"written: {log} and {arguments.output / 'summary.json'}")
    return int(not passed)
