"""Which experts the sub-tokens of a text go to, layer by layer. B batch, T length, H heads, K choices, N experts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fairseq_mhmoe.evaluation.loading import Loaded
from fairseq_mhmoe.moe.selection import Selection


@dataclass(frozen=True)
class LayerRouting:
    """What one MoE layer decided in one forward pass. An expert number of N means: nowhere."""

    block: int | str  # number of the block in the model, with a modality where it has its own experts
    wanted: Tensor  # [B, T, H, K] experts chosen, before capacity dropped any; N for pads
    experts: Tensor  # [B, T, H, K] wanted less those that were dropped
    probs: Tensor  # [B, T, H, N] gate before top-k, float32


@contextmanager
def observed(loaded: Loaded) -> Iterator[dict[int, Selection]]:
    """While inside, each forward pass of the model puts the selection of every MoE layer into the dictionary."""
    found: dict[int, Selection] = {}

    def keep(block: int):
        def observer(selection: Selection, _valid) -> None:
            found[block] = selection

        return observer

    layers = loaded.moe_layers()
    for block, layer in layers:
        layer.observer = keep(block)
    try:
        yield found
    finally:
        for _, layer in layers:
            layer.observer = None


@torch.inference_mode()
def route(loaded: Loaded, tokens: Tensor, features_only: bool = True) -> tuple[list[LayerRouting], Tensor]:
    """Run the model over a batch and tell what its MoE layers decided.

    Args:
        tokens: [B, T] int64 on any device, pads on the right only: the model's input, which begins with what stands
            before the text (`</s>` at the start of a document, as the task gives it).
        features_only: leave out the output projection.
    Returns:
        the layers in order (none for a dense model), and the model's output [B, T, D] or [B, T, V].
    Raises:
        ValueError: a row has padding on the left, or is longer than the model takes.
    """
    tokens = tokens.to(loaded.device)
    pads = tokens.eq(loaded.dictionary.pad())
    if bool((pads[:, :-1] & ~pads[:, 1:]).any()):
        raise ValueError("a row of the batch has padding before its text; put pads on the right")
    with observed(loaded) as found:
        output, _ = loaded.model(tokens, features_only=features_only)
    layers = loaded.moe_layers()
    return [_routing(block, found[block], layer.config.heads, tokens.shape) for block, layer in layers], output


def _routing(block: int, selection: Selection, heads: int, shape: torch.Size) -> LayerRouting:
    """[S, ...] -> [B, T, H, ...]; pads on the right are where they were, since the decoder's move is the identity."""

    def by_token(x: Tensor) -> Tensor:
        return x.view(*shape, heads, x.shape[-1])

    return LayerRouting(block, *map(by_token, (selection.wanted, selection.experts, selection.probs)))
