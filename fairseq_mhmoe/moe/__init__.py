"""The MH-MoE layer in pure PyTorch: it knows nothing of fairseq and can be used alone."""

from .config import MoEConfig
from .layer import MoELayer
from .router_base import Router, register_router

__all__ = ["MoEConfig", "MoELayer", "Router", "register_router"]
