"""What curves need to know of a run's model, from its checkpoint's configuration or that which its log begins with.

V vocabulary, D width.
"""

import ast
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fairseq_mhmoe.checkpoint import checkpoints_newest_first, load
from fairseq_mhmoe.models.options import lm_shape, with_defaults
from fairseq_mhmoe.moe.cost import model_cost

KINDS = ("dense", "smoe", "xmoe", "mhmoe")
PRINTED = r"'{}': (\{{[^{{}}]*\}})"  # a part of the configuration, as Python prints a dictionary of plain data
BARE_WORD = re.compile(
    r"(?<=: )(?!(?:True|False|None)\b)([A-Za-z_][\w-]*)(?=[,}])"
)  # choices are printed without quotes
EMBEDDING = "decoder.embed_tokens.weight"  # [V, D]


@dataclass(frozen=True)
class ModelFacts:
    """None: not known."""

    kind: str | None = None  # one of KINDS, or what the user said
    experts: int | None = None  # N per MoE layer, 0 for a dense model
    heads: int | None = None
    flops_per_token: float | None = None  # of training, see moe/cost.py
    params_total: int | None = None
    params_activated: int | None = None

    def changed(self, **said: Any) -> "ModelFacts":
        """With what the user said in place of what was found; None says nothing."""
        known = {item.name: getattr(self, item.name) for item in fields(self)}
        return ModelFacts(**known | {name: value for name, value in said.items() if value is not None})


def find_checkpoint(folder: Path) -> Path | None:
    """checkpoint_last.pt, checkpoint_best.pt, else the newest one of a folder; None without any."""
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        if (folder / name).is_file():
            return folder / name
    return next(iter(checkpoints_newest_first(folder)), None)


def facts_of_checkpoint(path: Path | None) -> tuple[ModelFacts, str | None]:
    """(facts, None), or (no facts, why there are none). Reads the configuration, no tensor's values."""
    if path is None:
        return ModelFacts(), "no checkpoint beside the log"
    try:
        state = load(path, mmap=True)
        model, task = state["cfg"]["model"], state["cfg"]["task"]
        return facts(model, task["tokens_per_sample"], state["model"][EMBEDDING].shape[0]), None
    except (KeyError, TypeError, AttributeError):
        return ModelFacts(), f"{path} holds no language model of fairseq_mhmoe"
    except (ValueError, OSError) as error:
        return ModelFacts(), str(error)


def facts_of_log(configuration: str | None, vocab_size: int | None) -> tuple[ModelFacts, str | None]:
    """As `facts_of_checkpoint`, from the configuration and the vocabulary that fairseq-train printed."""
    problem = "the log does not begin with the configuration of a model of fairseq_mhmoe"
    parts = [re.search(PRINTED.format(name), configuration or "") for name in ("model", "task")]
    if None in parts or vocab_size is None:
        return ModelFacts(), problem
    try:
        model, task = (ast.literal_eval(BARE_WORD.sub(r"'\1'", part[1])) for part in parts)
        return facts(model, task["tokens_per_sample"], vocab_size), None
    except (SyntaxError, ValueError, KeyError, TypeError, AttributeError):
        return ModelFacts(), problem


def facts(model: dict[str, Any], tokens_per_sample: int, vocab_size: int) -> ModelFacts:
    """Kind, size and cost of a model from its options (MHMoELanguageModelConfig) as plain data."""
    cfg = with_defaults(OmegaConf.create(dict(model)))
    shape = lm_shape(cfg, vocab_size, tokens_per_sample)
    cost = model_cost(shape)
    moe = shape.moe if shape.moe_layers else None
    if moe is None:
        kind = "dense"
    elif moe.heads > 1:
        kind = "mhmoe"
    else:
        kind = "xmoe" if moe.router in ("xmoe", "torchscale-cosine") else "smoe"
    return ModelFacts(
        kind=kind,
        experts=moe.num_experts if moe else 0,
        heads=moe.heads if moe else None,
        flops_per_token=cost.flops_per_token,
        params_total=cost.params_total,
        params_activated=cost.params_activated,
    )
