"""From router logits to experts and gates: top-k, second-expert policies, capacity.

S sub-tokens, N experts, K choices, P ranks that share the experts.
"""

import math
from typing import Any, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .config import MoEConfig


class Selection(NamedTuple):
    """Where each sub-token goes. An expert id of N means: nowhere."""

    logits: Tensor  # [S, N]
    probs: Tensor  # [S, N] softmax of the logits
    log_sums: Tensor  # [S] log of the sum of exp(logits)
    choices: Tensor  # [S, K] experts by preference, before anything is dropped
    wanted: Tensor  # [S, K] choices less pads and second experts that the policy left out
    experts: Tensor  # [S, K] wanted less those beyond an expert's or a rank's capacity
    gates: Tensor  # [S, K] weight of each choice in the sum, 0 where dropped
    locations: Optional[Tensor]  # [S, K] place in the expert's queue, from 0; None when dropless


def select_experts(
    logits: Tensor,
    config: MoEConfig,
    training: bool,
    valid: Optional[Tensor] = None,
    noise: Optional[Tensor] = None,
    ranks: int = 1,
) -> Selection:
    """Choose K experts per sub-token and weigh them (MH-MoE v1 eq. 4-5, GShard's capacity).

    Args:
        logits: [S, N] float32.
        config: the layer's rules.
        training: whether the layer trains; evaluation may have another capacity and draws nothing at random.
        valid: [S] False where the sub-token is padding; None when none is or when pads are routed.
        noise: the random numbers of the second-expert policy, drawn here when None: Gumbel noise [S, N] for
            "sampling", uniform numbers [S, K - 1] for "random".
        ranks: P; matters for the capacity of a rank only.
    """
    num_experts, top_k = config.num_experts, config.top_k
    probs = torch.softmax(logits, dim=1)
    policy = config.second_policy if training or config.sample_in_eval else "all"
    choices = _choose(logits.detach() if policy == "sampling" else probs.detach(), top_k, policy, noise)
    log_sums = _LogSumExp.apply(logits, probs.detach(), choices[:, :1])
    gates = probs.gather(1, choices)
    if config.normalize_gates == "before":
        gates = _normalize(gates)

    keep = None if valid is None else valid.unsqueeze(1).expand_as(choices)
    if policy == "random":
        taken = _taken_at_random(gates.detach(), noise)
        keep = taken if keep is None else keep & taken
    wanted = choices if keep is None else choices.masked_fill(~keep, num_experts)

    limit = _capacity(config, training, logits.shape[0], valid)
    if limit is None:
        experts, locations = wanted, None
    else:
        priority = probs.detach().amax(1) if config.batch_prioritized else None
        locations = queue_locations(wanted, num_experts, priority)
        experts = wanted.masked_fill(locations >= limit, num_experts)
    if config.rank_capacity_factor and ranks > 1:
        experts = _within_ranks(experts, config, ranks, logits.shape[0], valid)
    if experts is not choices:
        gates = gates * (experts < num_experts)
    if config.normalize_gates == "after":
        gates = _normalize(gates)
    return Selection(logits, probs, log_sums, choices, wanted, experts, gates, locations)


class _LogSumExp(torch.autograd.Function):
    """logsumexp of the logits, read off a softmax that exists already: l_i - log p_i for any i, here the largest."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, probs: Tensor, largest: Tensor) -> Tensor:
        ctx.save_for_backward(probs)
        return (logits.gather(1, largest) - probs.gather(1, largest).log()).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None]:
        (probs,) = ctx.saved_tensors
        return probs * grad.unsqueeze(1), None, None


def queue_locations(experts: Tensor, num_experts: int, priority: Optional[Tensor] = None) -> Tensor:
    """Place of each choice in its expert's queue: all first choices in token order, then all second ones, and so on.

    Args:
        experts: [S, K] int64; N means that the choice is in no queue.
        priority: [S] larger comes first (batch-prioritised routing); None for token order.
    Returns:
        [S, K] int64, from 0; the place among the others for choices in no queue.
    """
    tokens, top_k = experts.shape
    order = None if priority is None else torch.argsort(priority, descending=True, stable=True)
    queued = (experts if order is None else experts.index_select(0, order)).t().reshape(-1)
    by_expert = torch.argsort(queued, stable=True)
    sizes = torch.zeros(num_experts + 1, dtype=torch.int64, device=experts.device)
    sizes.scatter_add_(0, queued, torch.ones_like(queued))
    starts = sizes.cumsum(0) - sizes
    places = torch.arange(queued.numel(), device=queued.device) - starts.index_select(0, queued[by_expert])
    locations = torch.empty_like(queued).scatter_(0, by_expert, places).view(top_k, tokens).t()
    if order is None:
        return locations
    return torch.empty_like(locations).scatter_(0, order.unsqueeze(1).expand_as(locations), locations)


def _choose(scores: Tensor, top_k: int, policy: str, noise: Optional[Tensor]) -> Tensor:
    if policy != "sampling":
        return scores.topk(top_k, dim=1).indices
    # Gumbel-top-k: a sample without replacement from the softmax of the others
    first = scores.argmax(1, keepdim=True)
    if noise is None:
        noise = -torch.empty_like(scores).exponential_().log()
    rest = (scores + noise).scatter(1, first, float("-inf")).topk(top_k - 1, dim=1).indices
    return torch.cat([first, rest], dim=1)


def _taken_at_random(gates: Tensor, noise: Optional[Tensor]) -> Tensor:
    """A later choice is taken with probability K * gate (GShard's 2 * g_2 > u); the first one always."""
    top_k = gates.shape[1]
    if noise is None:
        noise = torch.rand_like(gates[:, 1:])
    return torch.cat([torch.ones_like(gates[:, :1], dtype=torch.bool), top_k * gates[:, 1:] > noise], dim=1)


def _within_ranks(experts: Tensor, config: MoEConfig, ranks: int, tokens: int, valid: Optional[Tensor]) -> Tensor:
    """Drop what exceeds ceil(factor * S * K / P) choices for the experts of one rank, queued as for an expert.

    Every sender keeps to its share, so that a rank receives at most `factor` times the mean, up to rounding.
    """
    num_experts = config.num_experts
    rank_of = experts.div(num_experts // ranks, rounding_mode="floor")  # an id of N becomes P: nowhere
    count = tokens if valid is None else valid.sum(dtype=torch.float64)
    limit = _ceil(config.rank_capacity_factor * config.top_k * count / ranks)
    return experts.masked_fill(queue_locations(rank_of, ranks) >= limit, num_experts)


def capacity_bound(config: MoEConfig, training: bool, tokens: int) -> Optional[int]:
    """The most choices that an expert takes of `tokens` sub-tokens, pads or not; None without a limit."""
    bound = _capacity(config, training, tokens, None)
    assert not isinstance(bound, Tensor)  # it is one only where the padding counts
    return bound


def _normalize(gates: Tensor) -> Tensor:
    """[S, K] divided by the sum over K; one choice alone keeps its gate as it is."""
    if gates.shape[1] == 1:
        return gates
    return gates / gates.sum(1, keepdim=True).clamp(min=torch.finfo(gates.dtype).eps)


def _capacity(config: MoEConfig, training: bool, tokens: int, valid: Optional[Tensor]) -> Optional[Union[int, Tensor]]:
    """Choices that an expert takes; None without a limit. On the device, unread, where it depends on the padding."""
    fraction = config.eval_capacity_fraction
    count = tokens if valid is None or config.padding == "counted" else valid.sum(dtype=torch.float64)
    if not training and fraction > 0:
        return _ceil(fraction * count)
    if config.capacity_factor == 0:
        return None
    return config.top_k * _floor(config.capacity_factor * _ceil(count / config.num_experts))


def _ceil(value: Union[float, Tensor]) -> Union[int, Tensor]:
    return value.ceil() if isinstance(value, Tensor) else math.ceil(value)


def _floor(value: Union[float, Tensor]) -> Union[int, Tensor]:
    return value.floor() if isinstance(value, Tensor) else math.floor(value)
