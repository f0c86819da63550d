"""What is to be exported: a checkpoint's model, options, dictionary and tokenizer, with or without its data folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils, utils
from fairseq.data import Dictionary
from torch import nn

from data_prep.tokenizers import load_tokenizer
from fairseq_mhmoe.data.checks import DICTIONARY
from fairseq_mhmoe.data.manifest import read_manifest
from fairseq_mhmoe.evaluation.loading import load_checkpoint
from fairseq_mhmoe.export.hf_model import build_model
from fairseq_mhmoe.models.options import with_defaults
from fairseq_mhmoe.moe.router_base import ROUTERS

EMBEDDING = "decoder.embed_tokens.weight"
OUTPUT = "decoder.output_projection.weight"


@dataclass(frozen=True)
class Source:
    """A checkpoint in one process."""

    model: nn.Module  # fairseq's, in evaluation mode, on the CPU
    cfg: Any  # options of the model
    task: Any  # options of the task
    updates: int  # that trained it
    dictionary: Dictionary | None  # None without a data folder
    tokenizer: tuple[str, bytes] | None  # name of its file in a data folder, and the file's content
    manifest: dict | None  # of the data folder

    @property
    def sizes(self) -> tuple[int, int]:
        """Symbols of input and output."""
        decoder = self.model.decoder
        return decoder.embed_tokens.num_embeddings, decoder.output_weight.shape[0]


def load_source(checkpoint: Path, data: Path | None) -> Source:
    """Read a checkpoint of any number of ranks, and what belongs to it in its data folder.

    Args:
        data: prepared folder; None takes the one that the checkpoint names, where it still is.
    Raises:
        ValueError: no such file or folder, another kind of model, one with a router of the user's, or a dictionary that
            is not the model's.
    """
    if not checkpoint.is_file():
        raise ValueError(f"no checkpoint {checkpoint}; expected a file such as checkpoint_best.pt")
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
    cfg = state.get("cfg")
    if cfg is None or not hasattr(cfg.model, "moe_freq") or EMBEDDING not in state["model"]:
        raise ValueError(f"{checkpoint} holds no language model of fairseq_mhmoe")
    router = str(cfg.model.get("moe_router", "softmax"))
    if router not in ROUTERS:
        raise ValueError(
            f"{checkpoint} has a router of your own, {router}; an exported folder carries the code of "
            f"{', '.join(ROUTERS)} only, so such a model can't be exported"
        )
    updates = int(state["optimizer_history"][-1].get("num_updates", 0))
    folder = data if data is not None else _recorded(cfg)
    if folder is None:
        return _without_data(state, updates)
    del state
    loaded = load_checkpoint(checkpoint, folder, device="cpu")
    return Source(
        model=loaded.model,
        cfg=with_defaults(loaded.cfg.model),
        task=loaded.cfg.task,
        updates=updates,
        dictionary=loaded.dictionary,
        tokenizer=_tokenizer(loaded),
        manifest=read_manifest(loaded.data),
    )


def _recorded(cfg: Any) -> Path | None:
    paths = utils.split_paths(cfg.task.data) if cfg.task.get("data") else []
    folder = Path(paths[0]) if paths else None
    return folder if folder is not None and (folder / DICTIONARY).is_file() else None


def _without_data(state: dict, updates: int) -> Source:
    cfg, weights = state["cfg"], state["model"]
    vocab_size = weights[EMBEDDING].shape[0]
    model = build_model(with_defaults(cfg.model), vocab_size, weights.get(OUTPUT, weights[EMBEDDING]).shape[0])
    model.upgrade_state_dict(weights)
    model.load_state_dict(weights, strict=True)
    return Source(model, cfg.model, cfg.task, updates, None, None, None)


def _tokenizer(loaded) -> tuple[str, bytes] | None:
    """The file that `Loaded.text` would read, after it has been read and held against the dictionary."""
    task = loaded.cfg.task
    named = [loaded.data / "spm.model", loaded.data / "tokenizer.tiktoken"]
    chosen = task.get("spm_model") or task.get("tiktoken_model")
    files = [chosen] if chosen is not None else [path for path in named if path.is_file()]
    if not files:
        return None
    loaded.text()
    found = load_tokenizer(files[0])
    return found.file_name, found.content
