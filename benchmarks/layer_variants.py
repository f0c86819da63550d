"""Our layer and what it is compared with: a dense FFN of the same matrix sizes, and the bare matrix products.

D model width, H heads, d = D / H, N experts, K choices, F their inner width, S sub-tokens, M = S * K rows, R = M / N.
"""

import copy
from typing import Any, Dict, List

import torch
import torch.nn.functional as F
from layer_cases import with_fields
from torch import Tensor, nn

from fairseq_mhmoe.moe import MoEConfig, MoELayer
from fairseq_mhmoe.moe.layer import merge_heads, project, split_heads

OURS: Dict[str, dict] = {
    "ours": {},
    "ours_loop": {"backend": "loop"},
    "ours_grouped_mm": {"backend": "grouped_mm"},
    "ours_bmm": {"backend": "bmm"},
    "ours_recompute": {"recompute": True},
}
FLOORS = ("loop", "bmm", "bmm_transposed")
LIMITS = ("loop", "bmm")


class ModuleRun:
    """A module's passes on a given input and gradient, under autograd."""

    def __init__(self, module: nn.Module, x: Tensor, grad: Tensor) -> None:
        self.module, self.x, self.grad = module, x, grad

    def clear(self) -> None:
        """Forget gradients."""
        self.x.grad = None
        for parameter in self.module.parameters():
            parameter.grad = None

    def forward(self) -> Tensor:
        """y [B, T, D]."""
        y = self.module(self.x)
        return y[0] if isinstance(y, tuple) else y

    def backward(self, output: Tensor) -> None:
        """Gradients of input and parameters."""
        output.backward(self.grad)

    def saved_bytes(self) -> int:
        """What one forward pass keeps for the backward pass, parameters and input left out, storages counted once."""
        known = {t.untyped_storage().data_ptr() for t in (self.x, *self.module.parameters(), *self.module.buffers())}
        kept: Dict[int, Any] = {}  # the tensors too, so that no address is used twice

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                kept[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self.forward()
        return sum(size for size, _ in kept.values())


def build_ours(name: str, layer: MoELayer) -> MoELayer:
    """A layer with the same weights, with another back end or with recomputation."""
    with torch.device("meta"):
        other = MoELayer(with_fields(layer.config, **OURS[name]))
    other.load_state_dict(layer.state_dict(), assign=True)
    return other


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up of [M, 2F] = gate | up; one gradient buffer, and only the input is kept."""

    @staticmethod
    def forward(ctx, pre):
        ctx.save_for_backward(pre)
        gate, up = pre.chunk(2, 1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad):
        (pre,) = ctx.saved_tensors
        gate, up = pre.chunk(2, 1)
        grad_pre = torch.empty_like(pre)
        grad_gate, grad_up = grad_pre.chunk(2, 1)
        torch.mul(grad, F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grad_pre


class DenseFFN(nn.Module):
    """A dense FFN with the layer's matrices, under eager autograd, and nothing that routes.

    Head layer, split, each row K times side by side (one copy of [M, d]; none with K = 1), rows cut evenly and in order
    into N groups, two matrix products with the activation between them, the K outputs of a sub-token added, merge
    layer. There is no router, no sort, no gather and no gate. Three ways, of which the fastest counts:

    "loop": N pairs of nn.Linear-like products over slices, each weight its own parameter (gradients are not copied).
    "bmm": torch.bmm of [N, R, d] with stacked weights, transposed as they lie; R rounded up, with zeros behind.
    "bmm_transposed": torch.bmm of stacked weights with [N, d, R], so that the weights' gradients come out as they lie.

    SwiGLU is the Function above, and silu(gate) * up in the transposed way; gelu and relu are torch's.
    """

    def __init__(self, layer: MoELayer, way: str) -> None:
        super().__init__()
        self.config, self.way = layer.config, way
        self.head, self.merge = copy.deepcopy(layer.head), copy.deepcopy(layer.merge)
        stacks = [layer.experts.w_in.detach(), layer.experts.w_out.detach()]
        if way == "loop":
            self.w_in, self.w_out = (nn.ParameterList(w.clone() for w in stack) for stack in stacks)
        else:
            self.w_in, self.w_out = (nn.Parameter(stack.clone()) for stack in stacks)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        c = self.config
        sub = split_heads(project(x, self.head), c.heads)
        rows = sub.expand(c.top_k, *sub.shape).reshape(-1, c.d_sub)
        outputs = getattr(self, f"_{self.way}")(rows)
        first, *others = outputs.view(c.top_k, *sub.shape).unbind(0)
        for other in others:  # in bfloat16 faster than a sum
            first = first + other
        return project(merge_heads(first, x.shape), self.merge)

    def _loop(self, rows: Tensor) -> Tensor:
        groups = rows.split(even_sizes(rows.shape[0], self.config.num_experts))
        parts = zip(groups, self.w_in, self.w_out)
        return torch.cat([F.linear(self._activate(F.linear(group, w_in)), w_out) for group, w_in, w_out in parts])

    def _bmm(self, rows: Tensor) -> Tensor:
        groups = self._padded(rows)
        pre = torch.bmm(groups, self.w_in.transpose(1, 2))
        hidden = self._activate(pre.view(-1, pre.shape[2])).view(*pre.shape[:2], -1)
        return torch.bmm(hidden, self.w_out.transpose(1, 2)).view(-1, self.config.d_sub)[: rows.shape[0]]

    def _bmm_transposed(self, rows: Tensor) -> Tensor:
        pre = torch.bmm(self.w_in, self._padded(rows).transpose(1, 2))
        if self.config.activation == "swiglu":
            gate, up = pre.chunk(2, 1)
            hidden = F.silu(gate) * up
        else:
            hidden = self._activate(pre)
        outputs = torch.bmm(self.w_out, hidden).transpose(1, 2)
        return outputs.reshape(-1, self.config.d_sub)[: rows.shape[0]]

    def _padded(self, rows: Tensor) -> Tensor:
        """[M, d] -> [N, R, d]."""
        experts = self.config.num_experts
        missing = -rows.shape[0] % experts
        return (F.pad(rows, (0, 0, 0, missing)) if missing else rows).view(experts, -1, rows.shape[1])

    def _activate(self, pre: Tensor) -> Tensor:
        kind = self.config.activation
        return SwiGLU.apply(pre) if kind == "swiglu" else F.gelu(pre) if kind == "gelu" else F.relu(pre)


class BareProducts:
    """The layer's matrix products and nothing else: head, merge, router, and the experts' on even groups.

    All into memory allocated before, without autograd and activations. "loop" is torch.mm(out=) by group, "bmm" is
    torch.bmm(out=) over [N, R, .] with R rounded up; the faster of them counts.
    """

    def __init__(self, layer: MoELayer, x: Tensor, grad: Tensor, way: str) -> None:
        c: MoEConfig = layer.config
        self.way, self.linears = way, c.num_head_layers + c.num_merge_layers
        width, experts, d = c.d_model, c.num_experts, c.d_sub
        self.x, self.grad = x.detach().reshape(-1, width), grad.reshape(-1, width)
        self.sub = self.x.view(-1, d)
        self.w_in, self.w_out = layer.experts.w_in.detach(), layer.experts.w_out.detach()
        inner, self.sizes = self.w_in.shape[1], even_sizes(self.sub.shape[0] * c.top_k, experts)
        rows = sum(self.sizes) if way == "loop" else experts * max(self.sizes)
        new, fresh = x.new_empty, torch.randn
        like = {"dtype": x.dtype, "device": x.device}
        self.rows, self.outputs = fresh(rows, d, **like), fresh(rows, d, **like)
        self.pre, self.hidden = fresh(rows, inner, **like), fresh(rows, c.ffn_dim, **like)
        self.grad_in, self.grad_out = torch.empty_like(self.w_in), torch.empty_like(self.w_out)
        self.projection, self.router = fresh(width, width, **like), fresh(experts, d, **like)
        self.projected, self.grad_projection = new(self.x.shape), new(width, width)
        self.logits = fresh(self.sub.shape[0], experts, **like)
        self.grad_sub, self.grad_router = new(self.sub.shape), new(experts, d)

    def clear(self) -> None:
        """There are no gradients."""

    @torch.no_grad()
    def forward(self) -> None:
        """The products of a forward pass."""
        for _ in range(self.linears):
            torch.mm(self.x, self.projection.t(), out=self.projected)
        torch.mm(self.sub, self.router.t(), out=self.logits)
        for mm, (x, pre, hidden, y, w_in, w_out, _, _) in self._groups():
            mm(x, w_in.mT, out=pre)
            mm(hidden, w_out.mT, out=y)

    @torch.no_grad()
    def backward(self, output: None) -> None:
        """The products of a backward pass."""
        for _ in range(self.linears):
            torch.mm(self.grad, self.projection, out=self.projected)
            torch.mm(self.grad.t(), self.x, out=self.grad_projection)
        torch.mm(self.logits, self.router, out=self.grad_sub)
        torch.mm(self.logits.t(), self.sub, out=self.grad_router)
        for mm, (x, pre, hidden, y, w_in, w_out, grad_in, grad_out) in self._groups():
            mm(y, w_out, out=hidden)
            mm(y.mT, hidden, out=grad_out)
            mm(pre, w_in, out=x)
            mm(pre.mT, x, out=grad_in)

    def _groups(self):
        """(product, its operands) of each group; with bmm there is one."""
        weights = (self.w_in, self.w_out, self.grad_in, self.grad_out)
        rows = (self.rows, self.pre, self.hidden, self.outputs)
        if self.way == "bmm":
            experts = self.w_in.shape[0]
            return [(torch.bmm, (*(t.view(experts, -1, t.shape[1]) for t in rows), *weights))]
        split = [t.split(self.sizes) for t in rows]
        return [(torch.mm, group) for group in zip(*split, *(w.unbind(0) for w in weights))]


def even_sizes(rows: int, groups: int) -> List[int]:
    """`rows` cut into groups whose sizes differ by one at most."""
    return [rows // groups + (group < rows % groups) for group in range(groups)]

