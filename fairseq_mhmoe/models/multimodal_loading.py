"""Weights of another multimodal model: another task's heads, another image size, longer or shorter texts.

Shapes: G side of the grid of patches, D width.
"""

import logging
from typing import Any, Dict

import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)
IMAGE_POSITIONS = "beit3.encoder.embed_positions.A.weight"
TEXT_POSITIONS = "beit3.encoder.embed_positions.B.weight"
NO_PATCHES = 3  # rows before the patches: two that nothing has, and CLS


def fit(state: Dict[str, Tensor], model: Any, prefix: str = "") -> None:
    """Makes weights fit a model in place and logs each change; what can't be fitted is left for the loader to refuse.

    Args:
        state: weights by name.
        model: the multimodal model that will get them.
        prefix: of the model's names in state.
    Raises:
        ValueError: another dictionary, or another patch size.
    """
    own = model.state_dict()
    _check_sizes(state, own, prefix)
    _fit_heads(state, own, prefix)
    for name, resize in ((IMAGE_POSITIONS, resize_image_positions), (TEXT_POSITIONS, resize_text_positions)):
        old, new = state.get(prefix + name), own[name]
        if old is not None and old.shape != new.shape and old.shape[1] == new.shape[1]:
            state[prefix + name] = resize(old, new)


def resize_image_positions(old: Tensor, new: Tensor) -> Tensor:
    """Positions [3 + G * G, D] of one grid of patches, interpolated to that of another (bicubic)."""
    before, after = (round((len(table) - NO_PATCHES) ** 0.5) for table in (old, new))
    logger.info("image positions interpolated from %d x %d to %d x %d patches", before, before, after, after)
    grid = old[NO_PATCHES:].float().reshape(1, before, before, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(after, after), mode="bicubic", align_corners=False)
    resized = new.detach().clone().to(old.device, old.dtype)
    resized[:NO_PATCHES] = old[:NO_PATCHES]
    resized[NO_PATCHES:] = grid.permute(0, 2, 3, 1).flatten(0, 2).to(old.dtype)
    return resized


def resize_text_positions(old: Tensor, new: Tensor) -> Tensor:
    """The first rows of old [.., D]; where the model has more, those keep their initial values."""
    common = min(len(old), len(new))
    what = f"{len(new) - common} new rows keep their initial values" if len(new) > common else "the others are left out"
    logger.info("text positions: %d of %d rows are taken over; %s", common, len(old), what)
    resized = new.detach().clone().to(old.device, old.dtype)
    resized[:common] = old[:common]
    return resized


def _check_sizes(state: Dict[str, Tensor], own: Dict[str, Tensor], prefix: str) -> None:
    checks = (
        ("beit3.text_embed.weight", 0, "symbols in its dictionary", "use its dict.txt"),
        ("beit3.vision_embed.proj.weight", 2, "pixels to a patch's side", "choose its --patch-size"),
        ("beit3.text_embed.weight", 1, "as width", "choose its architecture"),
    )
    for name, dimension, what, remedy in checks:
        if prefix + name in state:
            there, here = state[prefix + name].shape[dimension], own[name].shape[dimension]
            if there != here:
                raise ValueError(f"the checkpoint has {there} {what}, the model {here}; {remedy}")


def _fit_heads(state: Dict[str, Tensor], own: Dict[str, Tensor], prefix: str) -> None:
    start = f"{prefix}heads."
    there, here = _by_head(state, start), _by_head(own, "heads.")
    for head, old in there.items():
        new = here.get(head)
        if new is not None and {n: t.shape for n, t in old.items()} == {n: t.shape for n, t in new.items()}:
            continue
        reason = "the task has none" if new is None else "it has other sizes"
        logger.info("head %r of the checkpoint is left out: %s", head, reason)
        for name in old:
            del state[start + name]
    for head, new in here.items():
        if f"{start}{next(iter(new))}" not in state:
            logger.info("head %r is not in the checkpoint and keeps its initial values", head)
            state.update({start + name: value.detach().clone() for name, value in new.items()})


def _by_head(state: Dict[str, Tensor], start: str) -> Dict[str, Dict[str, Tensor]]:
    """{head: {name after start: weight}}."""
    heads: Dict[str, Dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith(start):
            rest = name[len(start) :]
            heads.setdefault(rest.split(".")[0], {})[rest] = value
    return heads
