"""Checkpoints of any number of ranks: an ordinary file, beside it the experts of P ranks, a manifest with hashes.

Pure torch. A dense file is what fairseq writes; with P > 1 its key "mhmoe_experts" names a folder with one shard a rank
and manifest.json. The rename of the dense file is the commit: what it names is complete.
"""

from fairseq_mhmoe.checkpoint.errors import DamagedCheckpoint, ForeignCheckpoint
from fairseq_mhmoe.checkpoint.folder import (
    checkpoints_newest_first,
    new_expert_folder,
    num_updates_of,
    remove_unnamed_experts,
)
from fairseq_mhmoe.checkpoint.layout import Experts, put_experts, slice_experts, take_experts
from fairseq_mhmoe.checkpoint.loading import ALLOWED_TYPES, load
from fairseq_mhmoe.checkpoint.reading import load_merged, read_experts, reference_of, verify
from fairseq_mhmoe.checkpoint.stages import reached
from fairseq_mhmoe.checkpoint.writing import REFERENCE, copy_atomically, write_dense, write_manifest, write_shard

__all__ = [
    "ALLOWED_TYPES",
    "REFERENCE",
    "DamagedCheckpoint",
    "Experts",
    "ForeignCheckpoint",
    "checkpoints_newest_first",
    "copy_atomically",
    "load",
    "load_merged",
    "new_expert_folder",
    "num_updates_of",
    "put_experts",
    "reached",
    "read_experts",
    "reference_of",
    "remove_unnamed_experts",
    "slice_experts",
    "take_experts",
    "verify",
    "write_dense",
    "write_manifest",
    "write_shard",
]
