"""Gradients of experts that are spread over ranks, for fairseq 0.12.3.1.

* LegacyDistributedDataParallel leaves parameters marked `.expert` out of its sum, and does not divide them: their
  gradients come out of the exchange as a sum over ranks. Every other wrapper would average different experts.
* The gradient norm leaves experts out and still scales them; here every expert counts once, for all ranks alike.
* A flat copy of half-precision parameters loses the mark, and can't be saved by expert.
* After running out of memory the trainer goes on without that batch: the other ranks would wait in an exchange.

R ranks, P of them share one copy of the experts.
"""

import logging

import torch
import torch.distributed as dist
from fairseq import trainer, utils
from fairseq.distributed.legacy_distributed_data_parallel import LegacyDistributedDataParallel
from fairseq.logging import metrics

from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.moe import MoELayer
from fairseq_mhmoe.moe.parallel import ExpertGroup, average_expert_gradients, group_of, is_expert, sum_of_squares

BACKENDS = ("legacy_ddp", "no_c10d")
MIB = 2**20
PRIORITY = 850

logger = logging.getLogger(__name__)


class _Job:
    """The group of the model that this process trains; fairseq's norm is a function that is told parameters only."""

    group = ExpertGroup()


def install():
    """Installs the hooks of this file."""
    wrap(trainer.Trainer, "__init__", start_trainer)
    wrap(trainer.Trainer, "_build_optimizer", build_optimizer)
    wrap(trainer.Trainer, "train_step", train_step)
    wrap(trainer.Trainer, "valid_step", valid_step)
    wrap(LegacyDistributedDataParallel, "all_reduce_grads", all_reduce_grads)
    wrap(utils, "clip_grad_norm_", clip_grad_norm)


def start_trainer(original, self, cfg, task, model, *args, **kwargs):
    """Starts the trainer.

    Raises:
        ValueError: settings that experts spread over ranks can't be trained with.
    """
    _Job.group = group_of(model)
    if _Job.group.size > 1:
        check_settings(cfg)
        group = _Job.group
        logger.info(
            "experts: %d processes share each copy, %d copies (--moe-expert-parallel-size)", group.size, group.replicas
        )
    if cfg.common.fp16 and any(isinstance(module, MoELayer) for module in model.modules()):
        cfg.common.fp16_no_flatten_grads = True
    original(self, cfg, task, model, *args, **kwargs)


def check_settings(cfg):
    """Refuses what would mix up different experts; ValueError names the option and the remedy."""
    distributed = cfg.distributed_training
    refused = (
        (distributed.ddp_backend not in BACKENDS, f"--ddp-backend {distributed.ddp_backend}", "use legacy_ddp"),
        (distributed.zero_sharding != "none", f"--zero-sharding {distributed.zero_sharding}", "leave it out"),
        (cfg.optimization.use_bmuf, "--use-bmuf", "leave it out"),
        (cfg.common.amp, "--amp", "use --fp16, --memory-efficient-fp16 or --bf16"),
        (cfg.common.model_parallel_size > 1, f"--model-parallel-size {cfg.common.model_parallel_size}", "leave it out"),
    )
    for wrong, option, remedy in refused:
        if wrong:
            raise ValueError(
                f"{option} can't train experts that are spread over processes: {remedy}, or keep all experts in every "
                "process with --moe-expert-parallel-size 1"
            )


def build_optimizer(original, self):
    """Builds the optimizer.

    Raises:
        ValueError: one that looks at whole tensors, of which a rank holds a part.
    """
    original(self)
    if _Job.group.size > 1 and not self.optimizer.supports_flat_params:
        raise ValueError(
            f"--optimizer {self.cfg.optimizer._name} computes with whole tensors, and every process holds a part of "
            "the experts: use a pointwise optimizer such as adam, or --moe-expert-parallel-size 1"
        )


def train_step(original, self, samples, raise_oom=False):
    """One update; running out of memory on one rank ends the job, since the others wait for its rows."""
    _Job.group.traffic.reset()
    return original(self, samples, raise_oom or _Job.group.size > 1)


def valid_step(original, self, sample, raise_oom=False):
    """One batch of validation; out of memory as in `train_step`."""
    return original(self, sample, raise_oom or _Job.group.size > 1)


def all_reduce_grads(original, self):
    """Averages gradients over ranks, those of experts over the ranks that hold them."""
    original(self)
    group = group_of(self.module)
    if group.size > 1 and not self.accumulate_grads:
        average_expert_gradients(self.module.parameters(), group)


@torch.no_grad()
def clip_grad_norm(original, params, max_norm, aggregate_norm_fn=None):
    """Clips by the norm over all parameters, every expert counted once; the same float32 number on all ranks."""
    params = [params] if torch.is_tensor(params) else list(params)
    experts = [p for p in params if is_expert(p) and p.grad is not None]
    if not experts:
        return original(params, max_norm, aggregate_norm_fn)
    group = _Job.group
    dense = original([p for p in params if not is_expert(p)], 0, aggregate_norm_fn)
    traffic = torch.tensor([group.traffic.bytes, group.traffic.remote_bytes], dtype=torch.float64)
    sums = torch.cat([sum_of_squares(experts).view(1), traffic.to(experts[0].device)])
    dist.all_reduce(sums)
    norm = (dense.double().square() + sums[0] / group.replicas).sqrt().float()
    if max_norm > 0:
        scale = (max_norm / (norm + 1e-6)).clamp_(max=1)
        torch._foreach_mul_([p.grad for p in params if p.grad is not None], scale)
    metrics.log_scalar("moe_exchange_mb", sums[1] / MIB, priority=PRIORITY, round=3)
    metrics.log_scalar("moe_remote_mb", sums[2] / MIB, priority=PRIORITY, round=3)
    return norm
