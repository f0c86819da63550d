"""A program of several steps and the folder it works in: one at a time, finished steps are not done again."""

import fcntl
import logging
import os
import shutil
import signal
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

from fairseq_mhmoe.cli.demo_programs import StepFailed, finished, say
from fairseq_mhmoe.cli.files import write_json


@contextmanager
def program_of_steps():
    """The main part of a program of steps: a failed step or Ctrl-C ends it with one line, SIGTERM with status 143."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    try:
        yield
    except StepFailed as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command goes on from here")


@contextmanager
def locked(folder: Path, who: str):
    """Work in a folder that no other one may use at the same time; ends the program if one does.

    Args:
        who: what would be at work there, "demonstration".
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        # Programs that we start inherit the lock: one that outlives us keeps the folder to itself.
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"error: another {who} is at work in {folder}; wait for it, or end it")
        yield


def once(title: str, path: Path, key: str, step) -> dict:
    """The result of a step, which is called with the key unless its file is there already."""
    result = finished(path, key)
    if result is not None:
        say(f"{title}: done before")
        return result
    say(title)
    result = step(key)
    write_json(path, result)
    return result


def claim_folder(folder: Path, key: str, about: dict | None = None) -> None:
    """Leave a folder as it is when training under this key began in it, else empty it if it is ours to empty.

    Args:
        about: what else to write down about the key, in started.json.
    """
    marker = folder / "started.json"
    if finished(marker, key) is not None:
        if (folder / "checkpoint_last.pt").exists():
            say(f"      {folder.name}: going on from its last checkpoint")
        return
    if folder.exists() and not marker.exists() and any(folder.iterdir()):
        raise StepFailed(f"{folder} holds something else; move it away, or choose another --output")
    shutil.rmtree(folder, ignore_errors=True)
    write_json(marker, {"fingerprint": key, **(about or {})})
