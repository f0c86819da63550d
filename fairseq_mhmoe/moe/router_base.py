"""What every router is, and routers by name (S sub-tokens, d = D / H, N experts)."""

import inspect
import json
from typing import Any, Callable, Dict, Optional, Tuple, Type, TypeVar

import torch
from torch import Tensor, nn

from .precision import without_autocast

ROUTERS = ("softmax", "xmoe", "torchscale-cosine")  # of the package, see router.py
RouterClass = TypeVar("RouterClass", bound="Type[Router]")


class Router(nn.Module):
    """Base of all routers: parameters and arithmetic stay in float32 when the model is cast to half precision.

    A router of your own defines `__init__(self, config)`, `reset_parameters` and `logits`, and `macs` where that of the
    base does not hold; `register_router` gives it a name. docs/custom-router.md tells the rest.
    """

    num_experts: Optional[int] = None  # N, where `build_router` made it

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Router":
        def keep_precision(tensor: Tensor) -> Tensor:
            out = fn(tensor)
            return tensor.to(out.device) if out.dtype in (torch.float16, torch.bfloat16) else out

        super()._apply(keep_precision, recurse)  # type: ignore[no-untyped-call]  # torch's
        return self

    def reset_parameters(self) -> None:
        """Give every parameter its initial value, from torch's generator: all ranks draw the same."""
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        """[S, d] in any precision -> [S, N] in the router's; sub-token j of token i is row i * H + j."""
        raise NotImplementedError

    def macs(self) -> int:
        """Multiply-adds per sub-token, for the cost: each matrix once, as in a product with every sub-token."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.dim() > 1)

    def forward(self, x: Tensor) -> Tensor:
        """[S, d] -> logits [S, N] in float32 (float64 for a float64 router), whatever the precision around it.

        Raises:
            ValueError: `logits` gave another shape or precision.
        """
        with without_autocast(x.device.type):
            logits = self.logits(x)
        shape = (x.shape[0], self.num_experts or logits.shape[-1])
        if logits.shape != shape or logits.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"router {type(self).__name__}: logits of shape {tuple(logits.shape)} in {logits.dtype}; expected one "
                f"row per sub-token and one column per expert, {shape}, in float32 (compute with x.float())"
            )
        return logits


_own: Dict[str, Type[Router]] = {}


def register_router(name: str) -> Callable[[RouterClass], RouterClass]:
    """Makes a subclass of `Router` known as --moe-router NAME; a decorator.

    Raises:
        ValueError: the name is taken, or what is decorated is no subclass of Router.
    """

    def register(router: RouterClass) -> RouterClass:
        if not (isinstance(router, type) and issubclass(router, Router)):
            raise ValueError(f"register_router({name!r}): {router!r} is no subclass of fairseq_mhmoe.moe.Router")
        holder = "fairseq_mhmoe" if name in ROUTERS else _own[name].__module__ if name in _own else None
        if holder is not None:
            raise ValueError(f"register_router({name!r}): {holder} has a router of that name; choose another")
        _own[name] = router
        return router

    return register


def router_names() -> Tuple[str, ...]:
    """Every router that can be named now: the package's, then those that were registered."""
    return (*ROUTERS, *_own)


def own_router(name: str) -> Optional[Type[Router]]:
    """The class that was registered under a name; None for the package's own routers."""
    return _own.get(name)


def router_arguments(name: str, text: str) -> Dict[str, Any]:
    """Keyword arguments for a registered router's constructor.

    Args:
        name: of the router.
        text: JSON object, such as '{"scale": 2}'; empty for no arguments.
    Raises:
        ValueError: no JSON object, or not what the router takes.
    """
    own = own_router(name)
    if own is None:
        if text:
            raise ValueError(f"expected nothing, the {name} router takes no arguments")
        return {}
    try:
        arguments = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise ValueError(f"expected a JSON object such as '{{\"scale\": 2}}' ({error})") from None
    if not isinstance(arguments, dict):
        raise ValueError("expected a JSON object such as '{\"scale\": 2}'")
    signature = inspect.signature(own)
    try:
        signature.bind(None, **arguments)
    except TypeError as error:
        names = ", ".join(list(signature.parameters)[1:]) or "nothing"
        raise ValueError(f"expected what router {name} takes beside the configuration, {names} ({error})") from None
    return arguments
