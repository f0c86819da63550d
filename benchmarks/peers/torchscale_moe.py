"""torchscale's MoE layer (the one of its X-MoE models), in one process, with its softmax gate.

It asks for a process group, and on the CPU its logging takes a histogram of integers, which torch refuses: a group of
one process and a histogram of floats are provided.
"""

import atexit
from argparse import Namespace
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_mhmoe.moe import MoELayer

from . import BetweenHeads, Unsupported, refuse_large_masks

_histogram = torch.histc


class SwiGLUExpert(nn.Module):
    """torchscale has no SwiGLU; its layer takes any modules as experts."""

    def __init__(self, w_in: Tensor, w_out: Tensor) -> None:
        super().__init__()
        self.w_in, self.w_out = nn.Parameter(w_in.clone()), nn.Parameter(w_out.clone())

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        gate, up = F.linear(x, self.w_in).chunk(2, -1)
        return F.linear(F.silu(gate) * up, self.w_out)


class Block(nn.Module):
    """The layer, its output alone."""

    def __init__(self, moe: nn.Module) -> None:
        super().__init__()
        self.moe = moe

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, d] -> [B, S, d]."""
        with mock.patch.object(torch, "histc", lambda values, **bins: _histogram(values.float(), **bins)):
            return self.moe(x)[0]


def build(layer: MoELayer, shape: torch.Size) -> nn.Module:
    """The peer, see the package. In evaluation nothing is dropped, in training what exceeds its capacity."""
    from torchscale.component.feedforward_network import make_experts
    from torchscale.component.xmoe import routing
    from torchscale.component.xmoe.moe_layer import MOELayer

    c = layer.config
    if c.top_k > 2:
        raise Unsupported(f"its gates choose 1 or 2 experts, not {c.top_k}")
    rows, weight = shape.numel() // c.d_sub, layer.experts.w_in
    refuse_large_masks(rows, c.num_experts * c.top_k * -(-rows // c.num_experts), weight.element_size())
    join_group_of_one()
    settings = Namespace(
        moe_expert_count=c.num_experts,
        ddp_rank=0,
        activation_fn=c.activation,
        dropout=0.0,
        activation_dropout=0.0,
        layernorm_eps=1e-5,
        subln=False,
        batch_size=shape[0],  # else it copies the input to pad it
        batch_size_valid=shape[0],
    )
    if c.top_k == 1:
        gate = routing.Top1Gate(c.d_sub, c.num_experts, use_fp32=True, moe_eval_capacity_token_fraction=1.0)
    else:
        gate = routing.Top2Gate(
            c.d_sub,
            c.num_experts,
            use_fp32=True,
            second_expert_policy="all",
            normalize_gate_prob_before_dropping=True,
            moe_eval_capacity_token_fraction=1.0,
        )
    w_in, w_out = layer.experts.w_in.detach(), layer.experts.w_out.detach()
    if c.activation == "swiglu":
        experts = nn.ModuleList(SwiGLUExpert(*pair) for pair in zip(w_in, w_out))
    else:
        experts = make_experts(settings, c.d_sub, c.ffn_dim)
        for expert, w_in_e, w_out_e in zip(experts, w_in, w_out):
            expert.fc1.weight.data, expert.fc2.weight.data = w_in_e.clone(), w_out_e.clone()
            expert.fc1.bias = expert.fc2.bias = None
    gate.wg.weight.data = layer.router.weight.detach().clone()
    return BetweenHeads(layer, Block(MOELayer(gate, experts, settings)).to(weight))


def join_group_of_one() -> None:
    """A process group of this process alone, unless it is in one; left when the program ends."""
    if dist.is_initialized():
        return
    forget_groups()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    atexit.register(leave_group)


def leave_group() -> None:
    """Ends the group, and what torchscale remembers of it."""
    if dist.is_initialized():
        dist.destroy_process_group()
    forget_groups()


def forget_groups() -> None:
    """torchscale keeps groups on its functions, also those of a group that has ended."""
    from torchscale.component.xmoe.global_groups import get_all2all_group, get_moe_group

    for function in (get_all2all_group, get_moe_group):
        for name in [name for name in vars(function) if name.startswith("_") and not name.startswith("__")]:
            delattr(function, name)
