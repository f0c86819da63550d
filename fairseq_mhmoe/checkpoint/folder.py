"""A folder of checkpoints: which are there, and which expert folders nobody names any more."""

import logging
import secrets
import shutil
from pathlib import Path

from fairseq_mhmoe.checkpoint.loading import load
from fairseq_mhmoe.checkpoint.manifest import FOLDER_NAME
from fairseq_mhmoe.checkpoint.reading import reference_of
from fairseq_mhmoe.checkpoint.writing import FOLDER

logger = logging.getLogger(__name__)


def new_expert_folder(num_updates: int) -> str:
    """A name for the expert folder of a save, relative to the dense file: "experts/u00000010-ab12cd34", never twice."""
    return f"{FOLDER}/u{num_updates:08d}-{secrets.token_hex(4)}"


def num_updates_of(state: dict) -> int:
    """Updates made when a state was saved; -1 if it doesn't say."""
    history = state.get("optimizer_history") if isinstance(state, dict) else None
    return int(history[-1].get("num_updates", -1)) if history else -1


def checkpoints_newest_first(save_dir) -> list[Path]:
    """The files checkpoint*.pt by number of updates, then by time; those that can't be read are left out."""
    found = []
    for path in Path(save_dir).glob("checkpoint*.pt"):
        try:
            found.append((num_updates_of(load(path, mmap=True)), path.stat().st_mtime_ns, path))
        except (ValueError, OSError) as error:
            logger.warning(f"left out: {error}")
    return [path for _, _, path in sorted(found, reverse=True)]


def named_expert_folders(save_dir) -> set[str]:
    """The expert folders that the files *.pt* of a folder name; temporary files are not asked.

    Raises:
        ValueError, OSError: a file can't be read. One that is already known as *.damaged then names nothing.
    """
    named = set()
    for path in sorted(Path(save_dir).glob("*.pt*")):
        if path.suffix == ".tmp" or not path.is_file():
            continue
        try:
            reference = reference_of(path)
        except ValueError:
            if path.suffix != ".damaged":
                raise
            reference = None
        if reference is not None:
            named.add(reference["folder"])
    return named


def remove_unnamed_experts(save_dir, only: str | None = None) -> list[str]:
    """Deletes the expert folders that no checkpoint of save_dir names; call it after a commit, on one rank.

    Does nothing, with a warning, when a checkpoint can't be read: it might name any of them.

    Args:
        only: the one folder, "experts/u...", that may be deleted; None: all.
    Returns:
        what was deleted, "experts/u..." in order.
    """
    save_dir = Path(save_dir)
    try:
        named = named_expert_folders(save_dir)
    except (ValueError, OSError) as error:
        logger.warning(f"no folder of experts is deleted, because a checkpoint may need it: {error}")
        return []
    removed = []
    for folder in sorted((save_dir / FOLDER).glob("*")):
        name = f"{FOLDER}/{folder.name}"
        ours = FOLDER_NAME.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink()
        if ours and name not in named and only in (None, name):
            shutil.rmtree(folder)
            removed.append(name)
    return removed
