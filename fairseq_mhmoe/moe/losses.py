"""Auxiliary losses of a router (S sub-tokens, N experts)."""

from typing import Callable, Optional

import torch
from torch import Tensor

from .precision import without_autocast


def load_balancing_loss(
    gates: Tensor,
    first_choice: Tensor,
    valid: Optional[Tensor] = None,
    count_pads: bool = False,
    total: Optional[Callable[[Tensor], Tensor]] = None,
) -> Tensor:
    """Penalty for uneven expert load: N * sum_p f_p * P_p (GShard; MH-MoE v1 eq. 10).

    Args:
        gates: [S, N] softmax over experts, float32.
        first_choice: [S] expert with the largest gate, int64.
        valid: [S] False where the sub-token is padding; None when none is.
        count_pads: pads enter P and both denominators, as in torchscale 0.3.0.
        total: adds up a vector over ranks, differentiably; None for the loss of this rank's sub-tokens alone.
    Returns:
        scalar; 1.0 when load and gates are uniform, 0.0 without any token. f carries no gradient, P does.
    """
    num_experts = gates.shape[1]
    if valid is None:
        weight = gates.new_ones(gates.shape[0])
    else:
        weight = valid.to(gates.dtype)
    chosen = gates.new_zeros(num_experts).scatter_add_(0, first_choice, weight)
    if valid is None or count_pads:
        count, gate_sum = gates.new_full((1,), gates.shape[0]), gates.sum(0)
    else:
        count = weight.sum().view(1)
        with without_autocast(gates.device.type):  # else a sum in half precision
            gate_sum = weight @ gates
    if total is not None:
        chosen, gate_sum, count = total(torch.cat([chosen, gate_sum, count])).split([num_experts, num_experts, 1])
    count = count.clamp(min=1)
    return num_experts * torch.dot(chosen / count, gate_sum / count)


def router_z_loss(
    log_sums: Tensor, valid: Optional[Tensor] = None, total: Optional[Callable[[Tensor], Tensor]] = None
) -> Tensor:
    """Mean square of log sum exp of the logits (ST-MoE, arXiv 2202.08906 eq. 5): keeps logits small.

    Args:
        log_sums: [S] log sum exp of each sub-token's logits, float32.
        valid: [S] False where the sub-token is padding; None when none is.
        total: as in `load_balancing_loss`.
    Returns:
        scalar; 0.0 without any token.
    """
    squares = log_sums.square()
    if valid is None:
        squares_sum, count = squares.sum(), squares.new_full((), squares.shape[0])
    else:
        weight = valid.to(squares.dtype)
        squares_sum, count = torch.dot(squares, weight), weight.sum()
    if total is not None:
        squares_sum, count = total(torch.stack([squares_sum, count])).unbind()
    return squares_sum / count.clamp(min=1)
