"""A small MoE model in float64, trained in one process or in several on the same batches: what both should agree on.

V vocabulary, D width, B batch, T length, M batches per update (of all ranks together), R ranks, P ranks that share the
experts. Batch m of every update goes to rank m mod R, so one process takes M of them one after the other.
"""

from dataclasses import dataclass, field, replace
from typing import Dict, List, Optional, Tuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from fairseq_mhmoe.moe import MoEConfig, MoELayer
from fairseq_mhmoe.moe.parallel import ExpertGroup, average_expert_gradients, expert_group, is_expert, sum_of_squares

VOCABULARY = 11
PAD = 0
WIDTH = 12
UPDATES = 20
BALANCE, Z = 0.5, 0.1


@dataclass
class Case:
    """What is trained, on how many ranks, and on what."""

    ranks: int
    experts: int = 4
    layer: Dict = field(default_factory=dict)  # more fields of MoEConfig
    size: Optional[int] = None  # P that is asked for
    batches: Optional[int] = None  # M, default R
    shapes: Tuple[Tuple[int, int], ...] = ((2, 5),)  # [B, T] of batch m, in turn
    pads: Tuple[float, ...] = (0.0,)  # share of pads in batch m, in turn
    momentum: float = 0.9
    one_expert: bool = False  # the router sends everything to the last expert
    recompute: bool = False  # activation checkpointing
    dtype: torch.dtype = torch.float64
    whole: bool = False  # one process takes the batches of an update as one, padded to equal length
    fault: str = ""  # a mistake made on purpose: "divisor", "copies", "norm"


@dataclass
class Ran:
    """What one rank saw. Gradients are those of the first update."""

    place: Tuple[int, int]  # rank in its group, P
    losses: List[torch.Tensor]  # [3] of every batch: cross entropy summed, balance, z
    outputs: List[torch.Tensor]  # logits [B, T, V] of its batches in the first and the last update
    stats: List[torch.Tensor]  # [layers, N + 3] of every batch
    norms: torch.Tensor  # [UPDATES]
    gradients: Dict[str, torch.Tensor]
    weights: Dict[str, torch.Tensor]
    experts: List[str]  # names of those parameters of which it holds a part
    exchanges: int
    bytes: int
    remote_bytes: int


class Model(nn.Module):
    """Embedding, two residual MoE layers, output projection."""

    def __init__(self, case: Case, group: ExpertGroup):
        super().__init__()
        config = MoEConfig(**{"d_model": WIDTH, "num_experts": case.experts, "ffn_dim": 8, **case.layer})
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(MoELayer(config, group, f"layers.{i}") for i in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY)
        self.recompute = case.recompute

    def forward(self, tokens):
        """[B, T] -> logits [B, T, V], balance loss [], z-loss [], statistics [layers, N + 3]."""
        x, pads = self.embedding(tokens), tokens.eq(PAD)
        losses = []
        for layer in self.layers:
            y, *rest = checkpoint(layer, x, pads, use_reentrant=False) if self.recompute else layer(x, pads)
            x = x + y
            losses.append(rest)
        balance, z, stats = map(torch.stack, zip(*losses))
        return self.head(x), balance.sum(), z.sum(), stats


def build(case: Case, group: Optional[ExpertGroup] = None) -> Model:
    """The model of a case, the same numbers for every R and P."""
    torch.manual_seed(1)
    model = Model(case, ExpertGroup() if group is None else group).to(case.dtype)
    if case.one_expert:
        for layer in model.layers:
            favour_last_expert(layer)
    return model


@torch.no_grad()
def favour_last_expert(layer: MoELayer) -> None:
    """Makes a softmax router prefer the last expert for every sub-token, through the head layer's constant bias."""
    for linear in layer.head:
        linear.weight.mul_(0.1)
        linear.bias.fill_(1)
    layer.router.weight.mul_(0.1)
    layer.router.weight[-1] = 1


def batch(case: Case, update: int, m: int):
    """Tokens and targets [B, T] of batch m; targets of pads are pads."""
    generator = torch.Generator().manual_seed(1000 * update + m)
    shape = case.shapes[m % len(case.shapes)]
    tokens = torch.randint(1, VOCABULARY, shape, generator=generator)
    target = torch.randint(1, VOCABULARY, shape, generator=generator)
    pads = torch.rand(shape, generator=generator) < case.pads[m % len(case.pads)]
    return tokens.masked_fill(pads, PAD), target.masked_fill(pads, PAD)


def batches_of(case: Case, update: int, rank: int, world: int):
    """The batches of one update that a rank takes."""
    mine = [batch(case, update, m) for m in range(rank, case.batches or case.ranks, world)]
    if not (case.whole and world == 1):
        return mine
    length = max(tokens.shape[1] for tokens, _ in mine)
    return [
        [torch.cat([F.pad(part, (0, length - part.shape[1]), value=PAD) for part in parts]) for parts in zip(*mine)]
    ]


def train(case: Case) -> Ran:
    """UPDATES updates of SGD: in one process on all batches, in a rank of a job on its own."""
    is_job = dist.is_initialized()
    world, rank = (dist.get_world_size(), dist.get_rank()) if is_job else (1, 0)
    group = expert_group(case.experts, case.size if is_job else None)
    model = build(case, group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=case.momentum)
    ran = Ran((group.rank, group.size), [], [], [], torch.zeros(UPDATES, dtype=torch.float64), {}, {}, [], 0, 0, 0)
    group.traffic.reset()
    for update in range(UPDATES):
        optimizer.zero_grad()
        tokens_seen = torch.zeros((), dtype=torch.float64)
        for tokens, target in batches_of(case, update, rank, world):
            logits, balance, z, stats = model(tokens)
            scores = logits.to(torch.promote_types(case.dtype, torch.float32)).view(-1, VOCABULARY)
            nll = F.cross_entropy(scores, target.view(-1), ignore_index=PAD, reduction="sum")
            count = target.ne(PAD).sum()
            (nll + count * (BALANCE * balance + Z * z)).backward()
            tokens_seen += count
            ran.losses.append(torch.stack([nll, balance, z]).detach())
            ran.stats.append(stats.detach())
            if update in (0, UPDATES - 1):
                ran.outputs.append(logits.detach())
        ran.norms[update] = reduce_gradients(model, group, tokens_seen, case.fault)
        if update == 0:
            ran.gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        optimizer.step()
    ran.weights = {name: p.detach() for name, p in model.named_parameters()}
    ran.experts = [name for name, p in model.named_parameters() if is_expert(p)]
    ran.exchanges, ran.bytes, ran.remote_bytes = (
        group.traffic.exchanges, group.traffic.bytes, group.traffic.remote_bytes
    )  # fmt: skip
    return ran


@torch.no_grad()
def reduce_gradients(model: nn.Module, group: ExpertGroup, tokens, fault: str = ""):
    """Gradients per token of the whole update, as fairseq makes them: average over ranks, times R / tokens; the norm.

    Args:
        tokens: [] that this rank has seen; becomes the sum over ranks.
    """
    parameters = list(model.parameters())
    experts = [p for p in parameters if is_expert(p)]
    dense = [p for p in parameters if not is_expert(p)]
    if group.world_size > 1:
        dist.all_reduce(tokens)
        flat = torch.cat([p.grad.view(-1) for p in dense]) / group.world_size
        dist.all_reduce(flat)
        for parameter, grad in zip(dense, flat.split([p.numel() for p in dense])):
            parameter.grad.copy_(grad.view_as(parameter))
        mistake = {"divisor": dict(world_size=1), "copies": dict(replica_group=None)}.get(fault, {})
        average_expert_gradients(parameters, replace(group, **mistake))
    for parameter in parameters:
        parameter.grad.mul_(group.world_size / tokens)
    total = torch.stack([p.grad.norm() for p in dense]).square().sum()
    if experts and fault != "norm":
        squares = sum_of_squares(experts)
        dist.all_reduce(squares)
        total = total + squares / group.replicas
    return total.sqrt()


def train_all(cases: Dict[str, Case]) -> Dict[str, Ran]:
    """All cases, one after the other, in this rank."""
    return {name: train(case) for name, case in cases.items()}


def gathered(ranks: List[Ran], section: str) -> Dict[str, torch.Tensor]:
    """Gradients or weights of the whole model: experts put together from the first copy, the rest from rank 0."""
    size = ranks[0].place[1]
    parts = [getattr(ran, section) for ran in ranks]
    return {
        name: torch.cat([part[name] for part in parts[:size]]) if name in ranks[0].experts else tensor
        for name, tensor in parts[0].items()
    }


def interleaved(ranks: List[Ran], section: str) -> List:
    """What ranks have one of per batch, in the order of one process."""
    return [row for rows in zip(*(getattr(ran, section) for ran in ranks), strict=True) for row in rows]


def assert_equal_training(ranks: List[Ran], one: Ran, tolerance: float = 1e-9) -> None:
    """Raises AssertionError unless R ranks did what one process did."""
    close = dict(rtol=tolerance, atol=tolerance)
    for section in ("losses", "outputs", "stats"):
        for ours, theirs in zip(interleaved(ranks, section), getattr(one, section), strict=True):
            torch.testing.assert_close(ours, theirs, **close)
    for section in ("gradients", "weights"):
        torch.testing.assert_close(gathered(ranks, section), getattr(one, section), **close)
    for ran in ranks:
        torch.testing.assert_close(ran.norms, one.norms, **close)
