"""Cross entropy of a linear output layer that holds the logits of a few tokens at a time, never those of all.

Shapes: S tokens, D model width, V vocabulary, C tokens of a chunk.
"""

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    from torch.nn import LinearCrossEntropyOptions
except ImportError:  # torch without linear_cross_entropy
    LinearCrossEntropyOptions = None

HALF = (torch.float16, torch.bfloat16)


def chunked_cross_entropy(
    features: Tensor, weight: Tensor, target: Tensor, ignore_index: int, chunk: int, reduce: bool = True
) -> Tensor:
    """-log softmax(features @ weight.T)[target], C = `chunk` tokens at a time: [C, V] numbers at once, not [S, V].

    torch's linear_cross_entropy does it in float32. Half precision is ours, with half logits and a float32 softmax as
    without chunks: torch rounds the sum of the losses too (error 3e-4, without chunks 1e-6), and takes the gradient of
    float16 before the loss scale is in it. One difference remains: the weight's gradient is rounded in every chunk.

    Args:
        features: [S, D], of one type with the weight unless autocast chooses it.
        weight: [V, D].
        target: [S], int64.
        ignore_index: the target without loss: padding.
        reduce: the sum; False gives [S], and the logits are computed again for the gradient.
    Returns:
        the sum or [S]; float32, float64 if the features are.
    """
    features, weight = in_autocasts_type(features, weight)
    if LinearCrossEntropyOptions is not None and features.dtype not in HALF:
        return F.linear_cross_entropy(
            features,
            weight,
            target,
            reduction="sum" if reduce else "none",
            ignore_index=ignore_index,
            options=LinearCrossEntropyOptions(batch_chunk_size=chunk),
        )
    return own_chunked_cross_entropy(features, weight, target, ignore_index, chunk, reduce)


def in_autocasts_type(features: Tensor, weight: Tensor) -> Tuple[Tensor, Tensor]:
    """Both as the output layer would take them; a Function is not told."""
    kind = features.device.type
    if not torch.is_autocast_enabled(kind):
        return features, weight
    half = torch.get_autocast_dtype(kind)
    return features.to(half), weight.to(half)


def chunked_sum_and_losses(
    features: Tensor, weight: Tensor, target: Tensor, ignore_index: int, chunk: int
) -> Tuple[Tensor, Tensor]:
    """(the sum of `chunked_cross_entropy`, the losses [S] that it is made of, without gradient); always ours."""
    features, weight = in_autocasts_type(features, weight)
    ignored = target.eq(ignore_index)
    if features.dtype == torch.float16 or not torch.is_grad_enabled():
        losses = _GradientInBackward.apply(features, weight, target, chunk).masked_fill(ignored, 0)
        return losses.sum(), losses.detach()
    return _GradientInForward.apply(features, weight, target, chunk, ~ignored)


def own_chunked_cross_entropy(
    features: Tensor, weight: Tensor, target: Tensor, ignore_index: int, chunk: int, reduce: bool = True
) -> Tensor:
    """The same without torch's function.

    float16 needs the loss scale in the gradient of the logits, which is known in the backward pass only; so its logits
    are computed twice.
    """
    if reduce:
        return chunked_sum_and_losses(features, weight, target, ignore_index, chunk)[0]
    return _GradientInBackward.apply(features, weight, target, chunk).masked_fill(target.eq(ignore_index), 0)


class _GradientInForward(torch.autograd.Function):
    """Sum of the losses of the counted [S], and these; the logits of a chunk give its loss and its gradient at once."""

    @staticmethod
    def forward(
        ctx, features: Tensor, weight: Tensor, target: Tensor, chunk: int, counted: Tensor
    ) -> Tuple[Tensor, Tensor]:
        losses, *gradients = _losses_and_gradients(features, weight, target, chunk, scale=counted)
        ctx.save_for_backward(*gradients)
        losses.masked_fill_(~counted, 0)
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx, scale: Tensor, _: Optional[Tensor]) -> Tuple[Optional[Tensor], ...]:
        of_features, of_weight = ctx.saved_tensors
        return of_features * scale, of_weight * scale, None, None, None


class _GradientInBackward(torch.autograd.Function):
    """Losses [S]; the backward pass computes the logits again, and needs no memory until then."""

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, target: Tensor, chunk: int) -> Tensor:
        ctx.save_for_backward(features, weight, target)
        ctx.chunk = chunk
        return _losses_and_gradients(features, weight, target, chunk)[0]

    @staticmethod
    def backward(ctx, scale: Tensor) -> Tuple[Optional[Tensor], ...]:
        _, of_features, of_weight = _losses_and_gradients(*ctx.saved_tensors, ctx.chunk, scale)
        return of_features, of_weight, None, None


def _losses_and_gradients(
    features: Tensor, weight: Tensor, target: Tensor, chunk: int, scale: Optional[Tensor] = None
) -> Tuple[Tensor, Optional[Tensor], Optional[Tensor]]:
    """Losses [S], and with a scale [S] the gradients of sum(scale * losses): [S, D] and [V, D]."""
    exact = torch.promote_types(features.dtype, torch.float32)
    losses = torch.empty(len(target), dtype=exact, device=target.device)
    of_features = of_weight = None
    if scale is not None:
        of_features, of_weight = torch.empty_like(features), torch.zeros_like(weight, dtype=exact)
    for start in range(0, len(target), chunk):
        here = slice(start, start + chunk)
        targets = target[here].unsqueeze(1)
        log_probs = F.linear(features[here], weight).log_softmax(1, dtype=exact)
        losses[here] = -log_probs.gather(1, targets).squeeze(1)
        if scale is None:
            continue
        gradient = log_probs.exp_()
        gradient.scatter_add_(1, targets, gradient.new_full((1, 1), -1.0).expand_as(targets))
        gradient = gradient.mul_(scale[here].unsqueeze(1)).to(features.dtype)
        torch.mm(gradient, weight, out=of_features[here])
        if features.dtype == exact:
            of_weight.addmm_(gradient.T, features[here])
        else:
            of_weight += gradient.T @ features[here]
    return losses, of_features, None if scale is None else of_weight.to(weight.dtype)
