"""Fetch packages with the programs that install them, and take data files out of them. Nothing is installed."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from datatrove.utils.logging import logger

from data_prep.files import replacing

DOWNLOAD_TIMEOUT_S = 600


class FetchError(RuntimeError):
    """The package could not be fetched or does not hold the file; the message says what to do."""


def download_wheel(requirement: str, cache: Path) -> Path:
    """Fetch the wheel of `name==version` without its dependencies; a wheel already in `cache` is used again.

    Raises:
        FetchError: pip is missing, the registry does not answer, or it has no wheel for this Python.
    """
    return _download_with_pip(requirement, cache, "-*.whl", ["--only-binary", ":all:"])


def download_sdist(requirement: str, cache: Path) -> Path:
    """Fetch the source archive of `name==version`, otherwise as `download_wheel`; pip asks its setup.py."""
    return _download_with_pip(requirement, cache, ".tar.gz", ["--no-binary", ":all:"])


def _download_with_pip(requirement: str, cache: Path, ending: str, options: list[str]) -> Path:
    name, _, version = requirement.partition("==")
    pattern = f"{re.sub(r'[-_.]+', '_', name).lower()}-{version}{ending}"
    if present := sorted(cache.glob(pattern)):
        return present[0]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", *options, "--disable-pip-version-check"]
    remedy = (
        f"check that the package registry answers (`{sys.executable} -m pip download --no-deps {requirement}`), "
        f"or fetch it elsewhere and put it into {cache} (gensim's wheel can be named with --wheel FILE)"
    )
    return _download([*command, "--dest", ".", requirement], requirement, cache, pattern, remedy)


def download_debian(package: str, cache: Path) -> Path:
    """Fetch a Debian package of the version that this system knows; one already in `cache` is used again.

    Raises:
        FetchError: no apt-get or dpkg-deb, or no such package.
    """
    pattern = f"{package}_*.deb"
    if present := sorted(cache.glob(pattern)):
        return present[0]
    if missing := [program for program in ("apt-get", "dpkg-deb") if shutil.which(program) is None]:
        raise FetchError(f"{package} is a Debian package, and {missing[0]} is not on this machine; leave it out")
    remedy = f"check that `apt-get download {package}` works (apt-get update first), or put the file into {cache}"
    return _download(["apt-get", "download", package], package, cache, pattern, remedy)


def _download(command: list[str], what: str, cache: Path, pattern: str, remedy: str) -> Path:
    """Run the command in an empty folder, and move the one file that it leaves there into the cache."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
        logger.info(f"fetching {what} with {'pip' if 'pip' in command else command[0]}")
        try:
            # the program's progress goes to the terminal; its errors are wanted for the message
            done = subprocess.run(command, cwd=folder, stderr=subprocess.PIPE, text=True, timeout=DOWNLOAD_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise FetchError(f"{what} was not fetched within {DOWNLOAD_TIMEOUT_S} s; {remedy}") from None
        found = list(Path(folder).glob(pattern))
        if done.returncode or len(found) != 1:
            last_lines = " | ".join(done.stderr.strip().splitlines()[-3:])
            raise FetchError(f"could not fetch {what} ({last_lines}); {remedy}")
        target = cache / found[0].name
        os.replace(found[0], target)
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


def read_members(package: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the members of a wheel, a .tar.gz or a .deb whose paths match `pattern`, as they come.

    Raises:
        FetchError: the package is damaged, or nothing in it matches.
    """
    count = 0
    try:
        for path, content in _read_zip(package, pattern) if package.suffix == ".whl" else _read_tar(package, pattern):
            count += 1
            yield path, content
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise FetchError(f"{package} is damaged ({error}); delete it and run again") from None
    if not count:
        raise FetchError(f"{package} holds no {pattern}; use another version of the package")


def _read_zip(package: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(package) as archive:
        for path in fnmatch.filter(archive.namelist(), pattern):
            yield path, archive.read(path)


def _read_tar(package: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    if package.suffix != ".deb":
        with tarfile.open(package, "r:gz") as archive:
            yield from _matching(archive, pattern)
        return
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as unpacking:
        with tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
            yield from _matching(archive, pattern)
        unpacking.stdout.read()  # the end of the archive
        if unpacking.wait() != 0:
            raise tarfile.TarError(f"dpkg-deb ends with {unpacking.returncode}")


def _matching(archive: tarfile.TarFile, pattern: str) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        if member.isfile() and fnmatch.fnmatch(member.name, pattern):
            yield member.name, archive.extractfile(member).read()
