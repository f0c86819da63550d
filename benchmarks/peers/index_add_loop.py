"""The plainest MoE layer: a loop over experts that picks rows, and adds what comes out with index_add."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_mhmoe.moe import MoELayer

from . import BetweenHeads


class LoopBlock(nn.Module):
    """Every expert has its own parameters, so that no gradient of a whole stack is made for each."""

    def __init__(self, layer: MoELayer) -> None:
        super().__init__()
        self.top_k, self.activation = layer.config.top_k, layer.config.activation
        self.router = nn.Parameter(layer.router.weight.detach().clone())
        self.w_in = nn.ParameterList(w.clone() for w in layer.experts.w_in.detach())
        self.w_out = nn.ParameterList(w.clone() for w in layer.experts.w_out.detach())

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, d] -> [B, S, d]."""
        rows = x.reshape(-1, x.shape[-1])
        gates, experts = F.linear(rows.float(), self.router).softmax(1).topk(self.top_k, 1)
        if self.top_k > 1:
            gates = gates / gates.sum(1, keepdim=True)
        gates = gates.to(rows.dtype)
        out = torch.zeros_like(rows)
        for expert, (w_in, w_out) in enumerate(zip(self.w_in, self.w_out)):
            row, choice = torch.where(experts == expert)
            if row.numel():
                hidden = self._activate(F.linear(rows.index_select(0, row), w_in))
                out.index_add_(0, row, F.linear(hidden, w_out) * gates[row, choice, None])
        return out.view_as(x)

    def _activate(self, pre: Tensor) -> Tensor:
        if self.activation == "swiglu":
            gate, up = pre.chunk(2, 1)
            return F.silu(gate) * up
        return F.gelu(pre) if self.activation == "gelu" else F.relu(pre)


def build(layer: MoELayer) -> nn.Module:
    """The peer, see the package."""
    return BetweenHeads(layer, LoopBlock(layer))
