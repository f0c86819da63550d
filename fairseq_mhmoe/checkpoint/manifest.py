"""The manifest of a folder of experts: reading it and holding the shards against it."""

import hashlib
import json
import re
from pathlib import Path

from fairseq_mhmoe.checkpoint.errors import DamagedCheckpoint
from fairseq_mhmoe.checkpoint.writing import FOLDER, FORMAT, MANIFEST, REFERENCE, shard_name

FOLDER_NAME = re.compile(r"u\d{8,}-[0-9a-f]{8}")


def checked_reference(path, state: dict) -> dict | None:
    """The reference to experts in a dense file's state, None for a file that holds everything itself.

    Raises:
        DamagedCheckpoint: it is not one that this program writes.
    """
    reference = state.get(REFERENCE) if isinstance(state, dict) else None
    if reference is None:
        return None
    if not isinstance(reference, dict) or reference.get("format") != FORMAT:
        raise DamagedCheckpoint(path, f"names its experts in a format other than {FORMAT}, which this version reads")
    parent, _, name = str(reference.get("folder")).partition("/")
    # a folder elsewhere is never opened, whatever the file says
    if parent != FOLDER or not FOLDER_NAME.fullmatch(name) or not isinstance(reference.get("manifest_sha256"), str):
        raise DamagedCheckpoint(path, f"names its experts by {reference!r}, which this program does not write")
    return reference


def expert_folder(path, reference: dict) -> Path:
    """The folder with the experts of a dense file.

    Raises:
        DamagedCheckpoint: there is none.
    """
    folder = Path(path).parent / reference["folder"]
    if not folder.is_dir():
        raise DamagedCheckpoint(
            folder, f"is missing: the experts of {path} must lie beside it (move both, or merge them into one file)"
        )
    return folder


def read_manifest(path, reference: dict) -> dict:
    """The manifest that a dense file's reference names.

    Raises:
        DamagedCheckpoint: folder or manifest are missing, or the manifest is not the one whose hash the dense file has.
    """
    file = expert_folder(path, reference) / MANIFEST
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise DamagedCheckpoint(file, "is missing") from None
    if hashlib.sha256(content).hexdigest() != reference["manifest_sha256"]:
        raise DamagedCheckpoint(file, f"was changed or is of another checkpoint: it is not the one that {path} names")
    manifest = json.loads(content)
    expected = [shard_name(rank, manifest["size"]) for rank in range(manifest["size"])]
    if [shard["file"] for shard in manifest["shards"]] != expected:
        raise DamagedCheckpoint(file, "lists other files than this program writes")
    return manifest


def check_shard_size(file: Path, shard: dict) -> None:
    """Raises DamagedCheckpoint if a shard is missing or has another size than the manifest says."""
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        raise DamagedCheckpoint(file, "is missing") from None
    if size != shard["bytes"]:
        raise DamagedCheckpoint(file, f"has {size} bytes, its manifest says {shard['bytes']}")


def check_shard_hash(file: Path, shard: dict) -> None:
    """Raises DamagedCheckpoint if a shard's content is not the one that the manifest describes; reads all of it."""
    with open(file, "rb") as content:
        found = _sha256(content)
    if found != shard["sha256"]:
        raise DamagedCheckpoint(file, "was changed or is of another checkpoint: its hash is not the manifest's")


def _sha256(file) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
