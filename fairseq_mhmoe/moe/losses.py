"""Auxiliary losses of a router (S sub-tokens, N experts)."""

from typing import Optional

import torch
from torch import Tensor

from .precision import without_autocast


def load_balancing_loss(
    gates: Tensor, first_choice: Tensor, valid: Optional[Tensor] = None, count_pads: bool = False
) -> Tensor:
    """Penalty for uneven expert load: N * sum_p f_p * P_p (GShard; MH-MoE v1 eq. 10).

    Args:
        gates: [S, N] softmax over experts, float32.
        first_choice: [S] expert with the largest gate, int64.
        valid: [S] False where the sub-token is padding; None when none is.
        count_pads: pads enter P and both denominators, as in torchscale 0.3.0.
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
        total, gate_sum = max(gates.shape[0], 1), gates.sum(0)
    else:
        total = weight.sum().clamp(min=1)
        with without_autocast(gates.device.type):  # else a sum in half precision
            gate_sum = weight @ gates
    return num_experts * torch.dot(chosen / total, gate_sum / total)


def router_z_loss(logits: Tensor, valid: Optional[Tensor] = None) -> Tensor:
    """Mean square of log sum exp of the logits (ST-MoE, arXiv 2202.08906 eq. 5): keeps logits small.

    Args:
        logits: [S, N] float32.
        valid: [S] False where the sub-token is padding; None when none is.
    Returns:
        scalar; 0.0 without any token.
    """
    squares = torch.logsumexp(logits, dim=1).square()
    if valid is None:
        return squares.sum() / max(logits.shape[0], 1)
    weight = valid.to(logits.dtype)
    return torch.dot(squares, weight) / weight.sum().clamp(min=1)
