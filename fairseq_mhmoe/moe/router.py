"""Routers: how well each expert fits a sub-token, as logits in float32 (S sub-tokens, d = D / H, N experts)."""

import math
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .config import MoEConfig
from .precision import without_autocast

TORCHSCALE_EMBEDDING_NORM = 1.5


class Router(nn.Module):
    """Base of all routers: parameters and arithmetic stay in float32 when the model is cast to half precision."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Router":
        def keep_precision(tensor: Tensor) -> Tensor:
            out = fn(tensor)
            return tensor.to(out.device) if out.dtype in (torch.float16, torch.bfloat16) else out

        return super()._apply(keep_precision, recurse)

    def logits(self, x: Tensor) -> Tensor:
        """[S, d] in any precision -> [S, N] in the router's."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """[S, d] -> logits [S, N] in float32 (float64 for a float64 router), whatever the precision around it."""
        with without_autocast(x.device.type):
            return self.logits(x)


class _Linear(torch.autograd.Function):
    """x W^T in the precision of W: [S, d], [N, d] -> [S, N]; x is kept as it came, not as a float32 copy."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x.to(weight.dtype) @ weight.t()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
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
        return _Linear.apply(x, self.weight)


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
        return _Linear.apply(x, self.projection.weight)


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
        return weight * (TORCHSCALE_EMBEDDING_NORM / weight.norm(dim=1, keepdim=True))

    def logits(self, x: Tensor) -> Tensor:
        """Projection times normalised embeddings: [S, d] -> [S, N]."""
        embedding = self.embedding + (self.rescaled_embedding() - self.embedding.detach())
        return self.project(x) @ F.normalize(embedding, dim=1, eps=1e-4).t()


def build_router(config: MoEConfig) -> Router:
    """The router that a layer's configuration names."""
    if config.router == "softmax":
        return SoftmaxRouter(config.d_sub, config.num_experts)
    if config.router == "xmoe":
        return CosineRouter(config.d_sub, config.num_experts, config.projected_dim, config.router_temperature)
    return TorchscaleCosineRouter(config.d_sub, config.num_experts, config.projected_dim)
