"""Writing a checkpoint so that a kill at any moment leaves the old file or the new one, never half a file.

Each file is written under a temporary name, flushed to disk and renamed, then its folder is flushed too.
P expert-parallel size, N experts.
"""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import torch

from fairseq_mhmoe.checkpoint.layout import Experts
from fairseq_mhmoe.checkpoint.stages import reached

FORMAT = 1
REFERENCE = "mhmoe_experts"  # key of the dense file for the reference to its experts
LEFT_OUT = "mhmoe_experts_left_out"  # marks a file (crash.pt) that one rank wrote by itself: experts are nowhere
FOLDER = "experts"
MANIFEST = "manifest.json"


def shard_name(rank: int, size: int) -> str:
    """Name of the file with the experts of one rank of P = size."""
    return f"experts-{rank:05d}-of-{size:05d}.pt"


def write_shard(folder, rank: int, size: int, experts: Experts) -> dict:
    """Writes the experts of one rank of P = size, tensors [N/P, ...], and makes the folder if there is none.

    Returns:
        the shard's entry for write_manifest: "file", "rank", "bytes", "sha256", and "parameters" with the local shapes.
    Raises:
        OSError: with path and reason; no temporary file is left.
    """
    folder = Path(folder)
    path = folder / shard_name(rank, size)
    compact = {section: {key: _compact(tensor) for key, tensor in part.items()} for section, part in experts.items()}
    # the folder's name is unique to a save: a shard of another checkpoint is recognised by it
    content = {"format": FORMAT, "folder": folder.name, "rank": rank, "size": size, "experts": compact}
    _make_folder(folder)
    written = _write(path, lambda file: _save(content, file), ("shard", "fsync", "rename"))
    parameters = {
        section: {key: {"shape": list(tensor.shape), "dtype": dtype_name(tensor)} for key, tensor in part.items()}
        for section, part in compact.items()
    }
    return {"file": path.name, "rank": rank, **written, "parameters": parameters}


def write_manifest(folder, entries: list, description: dict) -> dict:
    """Writes manifest.json for the shards of all ranks.

    Args:
        entries: what write_shard returned on each of the P ranks, in any order.
        description: anything that JSON can hold, for the reader.
    Returns:
        the reference to be stored in the dense file under "mhmoe_experts".
    Raises:
        OSError: with path and reason.
        ValueError: the entries are not those of P ranks of one model.
    """
    folder = Path(folder)
    entries = sorted(entries, key=lambda entry: entry["rank"])
    size = len(entries)
    if [entry["rank"] for entry in entries] != list(range(size)):
        raise ValueError(f"{folder}: shards of ranks {[entry['rank'] for entry in entries]}, expected 0 to {size - 1}")
    local = entries[0]["parameters"]
    for entry in entries:
        if entry["parameters"] != local:
            raise ValueError(f"{folder}: {entry['file']} has other names, shapes or types than {entries[0]['file']}")
    parameters = {
        section: {
            key: {"shape": [tensor["shape"][0] * size, *tensor["shape"][1:]], "dtype": tensor["dtype"]}
            for key, tensor in part.items()
        }
        for section, part in local.items()
    }
    shards = [{key: entry[key] for key in ("file", "rank", "bytes", "sha256")} for entry in entries]
    manifest = {
        "format": FORMAT, "description": description, "size": size, "parameters": parameters, "shards": shards
    }  # fmt: skip
    content = (json.dumps(manifest, indent=1) + "\n").encode()
    written = _write(folder / MANIFEST, lambda file: file.write(content))
    reached("manifest")
    return {
        "format": FORMAT, "folder": f"{folder.parent.name}/{folder.name}", "manifest_sha256": written["sha256"]
    }  # fmt: skip


def write_dense(state: dict, path) -> None:
    """Writes a checkpoint file; its rename is what commits a checkpoint.

    Raises:
        OSError: with path and reason; no temporary file is left and a former file of that name is as it was.
    """
    _write(Path(path), lambda file: _save(state, file), ("dense", None, "commit"))


def write_text(path, text: str) -> None:
    """Writes a small file in UTF-8; it is the old one or the whole new one at any moment.

    Raises:
        OSError: with path and reason; no temporary file is left.
    """
    _write(Path(path), lambda file: file.write(text.encode()))


def copy_atomically(source, target) -> None:
    """Copies a file's content; `target` is the old file or the whole copy at any moment.

    Raises:
        OSError: with path and reason; no temporary file is left.
    """
    with open(source, "rb") as content:
        _write(Path(target), lambda file: shutil.copyfileobj(content, file, 1 << 20))


def dtype_name(tensor) -> str:
    """ "float32" for torch.float32."""
    return str(tensor.dtype).removeprefix("torch.")


class _Hashed:
    """A binary file that knows the size and hash of what was written, and the error that stopped it."""

    def __init__(self, file):
        self.file, self.hash, self.bytes, self.error = file, hashlib.sha256(), 0, None

    def write(self, data):
        try:
            self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise
        self.hash.update(data)
        self.bytes += memoryview(data).nbytes
        return memoryview(data).nbytes

    def flush(self):
        self.file.flush()


def _save(content, file: _Hashed) -> None:
    try:
        torch.save(content, file)
    except Exception:
        # torch closes the archive after a failed write, and its complaint about that hides the reason
        if file.error is not None:
            raise file.error from None
        raise


def _write(path: Path, write, stages=(None, None, None)) -> dict:
    """Calls write(file) and gives the file its name when all is on disk; returns its "bytes" and "sha256".

    stages: what to report when the bytes are written, when they are on disk, and when the file has its name.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            hashed = _Hashed(file)
            write(hashed)
            file.flush()
            _report(stages[0])
            os.fsync(file.fileno())
        _report(stages[1])
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _with_path(error, path) from error
        raise
    _report(stages[2])
    return {"bytes": hashed.bytes, "sha256": hashed.hash.hexdigest()}


def _report(stage) -> None:
    if stage is not None:
        reached(stage)


def sync_folder(folder) -> None:
    """Brings a folder's list of names to disk, without which a rename may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        sync_folder(folder.parent.parent)
    except OSError as error:
        raise _with_path(error, folder) from error


def _with_path(error: OSError, path: Path) -> OSError:
    """The same error, which names the file that was to be written instead of the temporary one."""
    return OSError(error.errno, error.strerror or str(error), str(path))


def _compact(tensor):
    """The tensor alone: torch saves the whole storage behind a view."""
    tensor = tensor.detach().cpu().contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()
