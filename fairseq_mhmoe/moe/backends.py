"""Which back end computes the experts' matrix products: by request, device, capability, dtype and widths."""

import logging
from functools import cache
from typing import Any, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)

torch_grouped_mm: Any = getattr(F, "grouped_mm", None)
_ALIGNMENT = 16  # bytes: torch's grouped_mm takes only such strides


def choose_backend(requested: str, x: Tensor, widths: Sequence[int]) -> str:
    """The back end for rows like x and matrices of these widths; "auto" says once in the log what it takes.

    "auto" takes torch's grouped_mm where torch has a kernel for it that we trust: for bfloat16 on compute capability 9.
    Elsewhere a loop over the experts is as fast (CPU) or faster (V100, A100, capability 12, where torch loops and waits
    for the device in every product), or the only way (float64, odd widths).

    Raises:
        ValueError: grouped_mm was asked for and can't take these rows.
    """
    if requested in ("loop", "bmm"):
        return requested
    if x.shape[0] == 0:
        return "loop"
    reason = _grouped_mm_refuses(x.dtype, tuple(widths))
    if requested == "grouped_mm":
        if reason:
            raise ValueError(f"expert back end grouped_mm: {reason}; expected backend 'loop', 'bmm' or 'auto' here")
        return requested
    device = x.device
    chosen = "loop" if reason or not _grouped_mm_is_fast(device.type, device.index, x.dtype) else "grouped_mm"
    _log_choice(chosen, device.type, str(x.dtype), reason or "")
    return chosen


def _grouped_mm_refuses(dtype: torch.dtype, widths: Tuple[int, ...]) -> str:
    if torch_grouped_mm is None:
        return "this torch has no grouped_mm"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it does not take {dtype}"
    odd = [w for w in widths if w * dtype.itemsize % _ALIGNMENT]
    return f"widths {odd} are no multiples of {_ALIGNMENT} bytes" if odd else ""


@cache
def _grouped_mm_is_fast(device_type: str, index: Optional[int], dtype: torch.dtype) -> bool:
    if device_type == "cuda":
        return dtype == torch.bfloat16 and torch.cuda.get_device_capability(index)[0] == 9
    return device_type == "meta"  # there are no counts to loop over


@cache
def leaves_empty_groups_unwritten(device_type: str, index: Optional[int]) -> bool:
    """Whether grouped_mm's weight gradient of a group without rows is garbage (pytorch issue 172439)."""
    return device_type == "cuda" and torch.cuda.get_device_capability(index)[0] >= 10


@cache
def _log_choice(chosen: str, device_type: str, dtype: str, reason: str) -> None:
    why = f" ({reason})" if reason else ""
    logger.info("expert matrix products: back end %s for %s on %s%s", chosen, dtype, device_type, why)
