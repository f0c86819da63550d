"""The MH-MoE layer in pure PyTorch: it knows nothing of fairseq and can be used alone."""

from .config import MoEConfig
from .layer import MoELayer

__all__ = ["MoEConfig", "MoELayer"]
