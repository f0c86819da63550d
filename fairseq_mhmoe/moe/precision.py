"""Automatic mixed precision, asked for on any device (torch's own functions refuse some, such as meta)."""

from contextlib import AbstractContextManager, nullcontext
from typing import Optional

import torch


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """A context in which operations keep the precision of their inputs."""
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def autocast_dtype(device_type: str) -> Optional[torch.dtype]:
    """The type that autocast computes in here; None outside of it."""
    if not torch.amp.is_autocast_available(device_type) or not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)
