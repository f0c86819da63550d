"""Reading a file of torch.save without running what it holds, and telling a damaged file from a foreign one."""

import argparse
import errno
import logging
import os
import re
import zipfile
from pathlib import Path

import torch

from fairseq_mhmoe.checkpoint.errors import DamagedCheckpoint, ForeignCheckpoint

logger = logging.getLogger(__name__)

# What a file may hold besides tensors and plain data: fairseq keeps settings of some optimizers in a Namespace.
ALLOWED_TYPES = (argparse.Namespace,)
TRUST = "MHMOE_TRUST_CHECKPOINT"
ZIP_START = b"PK\x03\x04"
FOLDER_MARK = 0x10  # in the attributes of a part of a zip archive


def load(path, mmap: bool = False):
    """Reads a file onto the CPU; nothing in it is executed.

    A file that needs code is read only if the environment variable MHMOE_TRUST_CHECKPOINT names it.

    Args:
        mmap: tensors stay on disk until they are used; the file must not be changed in place meanwhile.
    Raises:
        DamagedCheckpoint: the file is cut or changed.
        ForeignCheckpoint: it holds a type outside ALLOWED_TYPES.
        OSError: it can't be opened.
    """
    path = Path(path)
    trusted = is_trusted(path)
    if trusted:
        logger.warning(f"{path}: code in this file may run, because {TRUST} names it")
    try:
        with torch.serialization.safe_globals(list(ALLOWED_TYPES)):
            mapped = mmap and starts_as_zip(path)
            return torch.load(path, map_location="cpu", weights_only=not trusted, mmap=mapped)  # nosec B614
    except Exception as error:  # a changed pickle can end in any of them
        if _is_of_the_system(error):
            raise
        reason = archive_damage(path)
        if reason is None and (refused := _refused(error)) is not None:
            raise ForeignCheckpoint(path, refused) from error
        if reason is None and (isinstance(error, MemoryError) or "memory" in str(error)):
            raise  # a whole file that this machine has no room for
        said = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DamagedCheckpoint(path, reason or f"is not a checkpoint, or damaged; the reader said: {said}") from error


def is_trusted(path) -> bool:
    """Whether MHMOE_TRUST_CHECKPOINT names this very file."""
    trusted = os.environ.get(TRUST)
    return bool(trusted) and os.path.realpath(trusted) == os.path.realpath(path)


def starts_as_zip(path) -> bool:
    """Whether a file begins like an archive of torch.save (false for those of torch before 1.6)."""
    with open(path, "rb") as file:
        return file.read(len(ZIP_START)) == ZIP_START


def archive_damage(path) -> str | None:
    """What the checksums of an archive of torch.save say: None if it is whole, or no archive; reads all of it."""
    if not starts_as_zip(path) and not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
            # torch takes what is marked as a folder for empty, and leaves the tensor's memory as it finds it
            folders = [part.filename for part in archive.infolist() if part.external_attr & FOLDER_MARK]
    except Exception as error:
        if _is_of_the_system(error):
            raise
        return f"is cut or damaged ({str(error) or type(error).__name__})"
    if wrong:
        return f"is damaged: the checksum of its part {wrong} is wrong"
    return f"is damaged: its part {folders[0]} is marked as a folder" if folders else None


def _is_of_the_system(error: Exception) -> bool:
    # a wrong offset in the file makes the reader seek to nowhere, which is EINVAL
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def _refused(error: Exception) -> str | None:
    """The type or function that torch's reader refuses to call, None if the error is another."""
    found = re.search(r"(?i)unsupported global:?\s+(?:global\s+)?(\S+)", str(error))
    found = found or re.search(r"(?:unrecognized function|but got) ([^\n]+)", str(error))
    return found.group(1) if found else None
