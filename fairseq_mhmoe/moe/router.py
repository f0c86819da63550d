"""Routers: how well each expert fits a sub-token, as logits in float32 (S sub-tokens, d = D / H, N experts)."""

import math
from functools import lru_cache
from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .config import MoEConfig
from .precision import without_autocast
from .router_base import Router, own_router, router_arguments

TORCHSCALE_EMBEDDING_NORM = 1.5


class _Linear(torch.autograd.Function):
    """x W^T in the precision of W: [S, d], [N, d] -> [S, N]; x is kept as it came, not as a float32 copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x.to(weight.dtype) @ weight.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], Tensor]:
        x, weight = ctx.saved_tensors
        with without_autocast(grad.device.type):
            grad_x = (grad @ weight).to(x.dtype) if ctx.needs_input_grad[0] else None
            return grad_x, grad.t() @ x.to(weight.dtype)


class SoftmaxRouter(Router):
    """logits = x W_g^T (GShard; MH-MoE v1 eq. 4)."""

    def __init__(self, d: int, num_experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, d))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The default of nn.Linear: uniform in +- 1 / sqrt(d)."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)

    def logits(self, x: Tensor) -> Tensor:
        """x W_g^T: [S, d] -> [S, N]."""
        logits: Tensor = _Linear.apply(x, self.weight)
        return logits


class _EmbeddingRouter(Router):
    """Sub-tokens are projected to a narrow space where each expert has an embedding."""

    def __init__(self, d: int, num_experts: int, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(d, dim, bias=False)  # applied by `project`
        self.embedding = nn.Parameter(torch.empty(num_experts, dim))

    def reset_parameters(self) -> None:
        """Projection as nn.Linear; embeddings orthogonal, gain 0.32 (torchscale)."""
        self.projection.reset_parameters()
        nn.init.orthogonal_(self.embedding, gain=0.32)

    def project(self, x: Tensor) -> Tensor:
        """[S, d] -> [S, dim]."""
        projected: Tensor = _Linear.apply(x, self.projection.weight)
        return projected


class CosineRouter(_EmbeddingRouter):
    """X-MoE: cosine similarity in the narrow space over a learnable temperature (arXiv 2204.09179, section 3).

    The temperature is stored as a logarithm, so that no step can make it negative.
    """

    def __init__(self, d: int, num_experts: int, dim: int, temperature: float) -> None:
        super().__init__(d, num_experts, dim)
        self.initial_temperature = temperature
        self.log_temperature = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As every cosine router, with the temperature at its initial value."""
        super().reset_parameters()
        nn.init.constant_(self.log_temperature, math.log(self.initial_temperature))

    def logits(self, x: Tensor) -> Tensor:
        """Cosine over temperature: [S, d] -> [S, N]."""
        cosine = F.normalize(self.project(x), dim=1) @ F.normalize(self.embedding, dim=1).t()
        return cosine * torch.exp(-self.log_temperature)


class TorchscaleCosineRouter(_EmbeddingRouter):
    """The cosine router of torchscale and of the published MH-MoE code: only the embeddings are normalised.

    There every forward first rescales the embeddings in place to norm 1.5, which fixes the scale at which their
    gradient is taken. Here the parameter starts at that norm and the rescaled copy takes its place in the graph: same
    output, same gradient, and a forward pass writes nothing.
    """

    def __init__(self, d: int, num_experts: int, dim: int) -> None:
        super().__init__(d, num_experts, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As every cosine router, with embeddings of norm 1.5."""
        super().reset_parameters()
        with torch.no_grad():
            self.embedding.copy_(self.rescaled_embedding())

    def rescaled_embedding(self) -> Tensor:
        """[N, dim] embeddings at norm 1.5, as the published code leaves them; no gradient."""
        weight = self.embedding.detach()
        rescaled: Tensor = weight * (TORCHSCALE_EMBEDDING_NORM / weight.norm(dim=1, keepdim=True))
        return rescaled

    def logits(self, x: Tensor) -> Tensor:
        """Projection times normalised embeddings: [S, d] -> [S, N]."""
        embedding = self.embedding + (self.rescaled_embedding() - self.embedding.detach())
        return self.project(x) @ F.normalize(embedding, dim=1, eps=1e-4).t()


def build_router(config: MoEConfig) -> Router:
    """The router that a layer's configuration names: one of this file, or a registered one."""
    router = _router(config)
    router.num_experts = config.num_experts
    return router


def _router(config: MoEConfig) -> Router:
    own = own_router(config.router)
    if own is not None:
        return own(config, **router_arguments(config.router, config.router_args))
    if config.router == "softmax":
        return SoftmaxRouter(config.d_sub, config.num_experts)
    if config.router == "xmoe":
        return CosineRouter(config.d_sub, config.num_experts, config.projected_dim, config.router_temperature)
    return TorchscaleCosineRouter(config.d_sub, config.num_experts, config.projected_dim)


@lru_cache(maxsize=256)
def measured_cost(config: MoEConfig) -> Tuple[int, int]:
    """Parameters and multiply-adds per sub-token of a router that is made to be asked."""
    with torch.random.fork_rng(devices=[]):
        router = build_router(config)
    return sum(parameter.numel() for parameter in router.parameters()), router.macs()
