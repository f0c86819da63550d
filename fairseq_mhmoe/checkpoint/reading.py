"""Reading checkpoints: any P that wrote, any P that reads. P expert-parallel size, N experts.

Files are mapped, not read: a rank that needs 1/P of the experts takes only those rows into memory.
"""

from pathlib import Path

import torch

from fairseq_mhmoe.checkpoint.errors import DamagedCheckpoint
from fairseq_mhmoe.checkpoint.layout import Experts, put_experts, rows
from fairseq_mhmoe.checkpoint.loading import archive_damage, load, starts_as_zip
from fairseq_mhmoe.checkpoint.manifest import (
    check_shard_hash,
    check_shard_size,
    checked_reference,
    expert_folder,
    read_manifest,
)
from fairseq_mhmoe.checkpoint.writing import FORMAT, LEFT_OUT, REFERENCE, dtype_name


def reference_of(path) -> dict | None:
    """The reference to experts in a dense file, None for a file that holds everything itself; reads no tensor.

    Raises:
        DamagedCheckpoint, ForeignCheckpoint, OSError: as `load`.
    """
    return checked_reference(path, load(path, mmap=True))


def read_experts(path, reference: dict, rank: int = 0, size: int = 1) -> Experts:
    """The rows [N/P, ...] of one rank of P = size, from shards that any number of ranks wrote.

    Checks the manifest's hash, and of the shards that it needs the size and the checkpoint that they belong to; their
    hashes are the business of `verify`.

    Args:
        path: the dense file.
        reference: what reference_of(path) returned.
    Raises:
        DamagedCheckpoint: a file is missing, has another size, or is not of this checkpoint.
        ValueError: P does not divide the number of experts.
    """
    manifest = read_manifest(path, reference)
    shards = _Shards(expert_folder(path, reference), manifest)
    return {
        section: {key: shards.rows_of(section, key, rank, size) for key in part}
        for section, part in manifest["parameters"].items()
    }


def verify(path, part: int = 0, parts: int = 1) -> None:
    """Reads a checkpoint's files and holds them against their checksums; a single file is fine.

    Several processes share the work: each checks the manifest and the shards part, part + parts, ..., and part 0 the
    dense file.

    Raises:
        DamagedCheckpoint: with the file and what is wrong with it.
        ForeignCheckpoint, OSError: as `load`.
    """
    if part == 0:
        reason = archive_damage(path)
        if reason is not None:
            raise DamagedCheckpoint(path, reason)
        if not starts_as_zip(path):
            load(path)  # this old format has no checksums: being readable is all that it can show
    reference = reference_of(path)
    if reference is None:
        return
    folder, manifest = expert_folder(path, reference), read_manifest(path, reference)
    for shard in manifest["shards"][part::parts]:
        check_shard_size(folder / shard["file"], shard)
        check_shard_hash(folder / shard["file"], shard)


def load_merged(path) -> dict:
    """The whole state, as one process would have written it; all files are verified first.

    Raises:
        DamagedCheckpoint, ForeignCheckpoint, OSError: as `verify`.
        ValueError: it was written without its experts (crash.pt).
    """
    verify(path)
    state = load(path)
    check_has_experts(path, state)
    reference = checked_reference(path, state)
    if reference is None:
        return state
    del state[REFERENCE]
    return put_experts(state, read_experts(path, reference))


def check_has_experts(path, state: dict) -> None:
    """Raises ValueError for the state of a file that one of several ranks wrote by itself."""
    if LEFT_OUT in state:
        raise ValueError(f"{path} was written by one rank alone, when the run broke down: it holds no experts")


class _Shards:
    """The shards of one checkpoint, mapped when first needed."""

    def __init__(self, folder: Path, manifest: dict):
        self.folder, self.manifest, self.opened = folder, manifest, {}

    def rows_of(self, section: str, key: str, rank: int, size: int):
        """A copy [N/P, ...] of what one rank of P = size needs of one tensor."""
        total = self.manifest["parameters"][section][key]["shape"][0]
        first, end = rows(key, total, rank, size)
        each = total // self.manifest["size"]
        pieces = []
        for number in range(first // each, -(-end // each)):
            start = number * each
            pieces.append(self.tensor(number, section, key)[max(first - start, 0) : end - start])
        return torch.cat(pieces)

    def tensor(self, number: int, section: str, key: str):
        """One tensor of one shard, on disk; DamagedCheckpoint if it is not what the manifest says."""
        described = self.manifest["parameters"][section][key]
        expected = [described["shape"][0] // self.manifest["size"], *described["shape"][1:]]
        file, experts = self.shard(number)
        tensor = experts.get(section, {}).get(key)
        if tensor is None or list(tensor.shape) != expected or dtype_name(tensor) != described["dtype"]:
            raise DamagedCheckpoint(file, f"has not the tensor {key} of {section} that its manifest describes")
        return tensor

    def shard(self, number: int):
        """File and content of one shard."""
        if number not in self.opened:
            described = self.manifest["shards"][number]
            file = self.folder / described["file"]
            check_shard_size(file, described)
            content = load(file, mmap=True)
            expected = {
                "format": FORMAT, "folder": self.folder.name, "rank": number, "size": self.manifest["size"]
            }  # fmt: skip
            if not isinstance(content, dict) or {key: content.get(key) for key in expected} != expected:
                raise DamagedCheckpoint(file, f"belongs to another checkpoint, not to {self.folder.name}")
            self.opened[number] = file, content["experts"]
        return self.opened[number]
