"""The operations that a MoE layer hands to the device, with their FLOPs and bytes: recorded, not written down by hand.

The layer runs on meta tensors, which have shapes and no values, so that any size takes milliseconds and no memory, and
the layer takes the way that it takes on a GPU.

B batch, T length, D model width, M rows, N groups of rows.
"""

import math
from dataclasses import dataclass
from typing import List, Tuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fairseq_mhmoe.moe import MoEConfig, MoELayer

GATHERS = {"index_select", "gather", "embedding"}
GATHER_SUMS = {"_embedding_bag", "_embedding_bag_forward_only"}
SCATTERS = {"scatter_", "scatter", "scatter_add_", "scatter_add", "index_add_", "index_add", "embedding_dense_backward"}
SORTS = {"sort", "topk"}
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "_grouped_mm"}
READ_NOTHING = {"zero_", "fill_", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"}
NO_KERNEL = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_unsafe_view", "lift_fresh"}


@dataclass(frozen=True)
class Operation:
    """One operation of torch."""

    name: str
    kind: str  # grouped, product, router (products in float32), gather, gather_sum, sort, other
    flops: int  # of matrix products, else 0
    bytes: int  # each input read once, each output written once; of a gather only the rows that it takes
    groups: int = 0  # N of a grouped product
    shape: Tuple[int, int, int] = (0, 0, 0)  # of a grouped product: rows and columns of a result, inner width
    ragged: str = ""  # which of them the groups share: "rows" or "inner"


class Recorder(TorchDispatchMode):
    """Notes every operation that is not a mere view."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: List[Operation] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if not func.is_view and name not in NO_KERNEL:
            self.operations.append(_operation(func, name, args, kwargs, result))
        return result


def record(config: MoEConfig, tokens: int) -> Tuple[List[Operation], List[Operation]]:
    """The operations of one forward and one backward pass of a layer in half precision.

    Args:
        config: the layer, with a back end that works without values: not "loop".
        tokens: B T.
    Returns:
        forward, backward. float16 has the same shapes and bytes as bfloat16, which is what runs.
    """
    with torch.device("meta"):
        layer = MoELayer(config).bfloat16()
        x = torch.empty(1, tokens, config.d_model, dtype=torch.bfloat16).requires_grad_()
        with Recorder() as forward:
            y, l_aux, z_loss, _ = layer(x)
        grads = [torch.empty_like(y), torch.empty_like(l_aux), torch.empty_like(z_loss)]
        with Recorder() as backward:
            torch.autograd.backward([y, l_aux, z_loss], grads)
    return forward.operations, backward.operations


def _operation(func, name: str, args, kwargs, result) -> Operation:
    tensors = list(_tensors([*args, *kwargs.values()]))
    moved = _bytes(func, name, args, kwargs, result)
    if name == "_grouped_mm":
        shape, groups, ragged = _grouped_shape(*tensors[:3])
        return Operation(name, "grouped", 2 * math.prod(shape), moved, groups, shape, ragged)
    if name in PRODUCTS:
        flops = flop_registry[func.overloadpacket](*args, **kwargs, out_val=result)
        return Operation(name, "router" if tensors[-1].dtype == torch.float32 else "product", flops, moved)
    kinds = (("gather", GATHERS | SCATTERS), ("gather_sum", GATHER_SUMS), ("sort", SORTS))
    return Operation(name, next((kind for kind, names in kinds if name in names), "other"), 0, moved)


def _grouped_shape(a: Tensor, b: Tensor, ends: Tensor):
    """Of torch's grouped_mm: a [M, in], b [N, in, out], or a [out, M], b [M, in] for the gradient of weights."""
    return (a.shape[0], b.shape[-1], a.shape[1]), ends.numel(), "rows" if b.dim() == 3 else "inner"


def _bytes(func, name: str, args, kwargs, result) -> int:
    written = sum(_size(tensor) for tensor in _tensors([result]))
    if name in READ_NOTHING:
        return written
    if name in GATHERS:
        index = args[1] if name == "embedding" else args[2]
        return _size(index) + 2 * written
    if name in GATHER_SUMS:
        rows, index = args[:2]
        return index.numel() * rows.shape[1] * rows.itemsize + sum(map(_size, _tensors(args[1:]))) + written
    if name in SCATTERS and name.startswith("scatter"):
        target, _, index, source = args
        changed = min(_size(target), _size(source)) * (2 if "add" in name else 1)
        copied = 0 if name.endswith("_") else _size(target) + written
        return _size(index) + _size(source) + changed + copied
    return written + sum(_size(tensor) for tensor in _tensors(_read(func, args, kwargs)))


def _read(func, args, kwargs):
    """Arguments that an operation reads: all but those that it only writes to."""
    only_written = {a.name for a in func._schema.arguments if a.is_out}
    if func._schema.name == "aten::copy_":
        args = args[1:]
    return [*args, *(value for key, value in kwargs.items() if key not in only_written)]


def _tensors(values):
    """The tensors among values and in lists of them."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _tensors(value)
        elif isinstance(value, Tensor):
            yield value


def _size(tensor: Tensor) -> int:
    """Bytes that lie in memory: what is expanded lies there once."""
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())
