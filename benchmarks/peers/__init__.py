"""Other MoE layers, doing the work of ours: same sizes, same weights, for H > 1 between a head and a merge layer.

A peer is a function (layer, shape) -> module: our layer, whose weights it copies, and the input's shape [B, T, D]. It
raises `Unsupported` where it can't do that layer's work; `note` says where it does a little less.

D model width, H heads, d = D / H, N experts, K choices, F their inner width, S sub-tokens, C capacity.
"""

import copy
from typing import Callable, Dict

import torch
from torch import Tensor, nn

from fairseq_mhmoe.moe import MoEConfig, MoELayer
from fairseq_mhmoe.moe.layer import project

MASK_LIMIT = 2**29  # bytes of one [S, N, C] mask


class Unsupported(Exception):
    """The peer has no such layer; the text says what it lacks."""


class BetweenHeads(nn.Module):
    """A block over sub-tokens, [B, T * H, d] -> the same, between our layer's head and merge layers."""

    def __init__(self, layer: MoELayer, block: nn.Module) -> None:
        super().__init__()
        self.head, self.merge = copy.deepcopy(layer.head), copy.deepcopy(layer.merge)
        self.d, self.block = layer.config.d_sub, block

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        out = self.block(project(x, self.head).view(x.shape[0], -1, self.d))
        return project(out.reshape(x.shape), self.merge)


def refuse_large_masks(rows: int, slots: int, itemsize: int) -> None:
    """Raises Unsupported when a mask of `rows` x `slots` would not fit.

    Such layers hold several of them at a time.
    """
    size = rows * slots * itemsize
    if size > MASK_LIMIT:
        raise Unsupported(f"a dispatch mask of {size // 2**20} MiB, and at most {MASK_LIMIT // 2**20} MiB are allowed")


def _hf_eager(layer: MoELayer, shape: torch.Size) -> nn.Module:
    from . import hf_mixtral

    return hf_mixtral.build(layer, "eager")


def _hf_grouped_mm(layer: MoELayer, shape: torch.Size) -> nn.Module:
    from . import hf_mixtral

    return hf_mixtral.build(layer, "grouped_mm")


def _torchscale(layer: MoELayer, shape: torch.Size) -> nn.Module:
    from . import torchscale_moe

    return torchscale_moe.build(layer, shape)


def _lucidrains(layer: MoELayer, shape: torch.Size) -> nn.Module:
    from . import lucidrains

    return lucidrains.build(layer, shape)


def _index_add_loop(layer: MoELayer, shape: torch.Size) -> nn.Module:
    from . import index_add_loop

    return index_add_loop.build(layer)


PEERS: Dict[str, Callable[[MoELayer, torch.Size], nn.Module]] = {
    "torchscale": _torchscale,
    "hf_eager": _hf_eager,
    "hf_grouped_mm": _hf_grouped_mm,
    "lucidrains": _lucidrains,
    "index_add_loop": _index_add_loop,
}


def note(peer: str, config: MoEConfig) -> str:
    """Where a peer does less than our layer, "" where it does the same."""
    if peer == "torchscale":
        return "drops choices beyond K * ceil(S / N) of an expert"
    if peer == "lucidrains":
        return "drops choices beyond K * T * H / N of an expert in each sequence"
    return "its gate is 1, as K is" if peer.startswith("hf_") and config.top_k == 1 else ""
