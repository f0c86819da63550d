"""The losses that keep experts busy, for any criterion: balance (MH-MoE v1 eq. 10) and router z-loss.

A model reports them in the second part of its output, as lists with one entry per MoE layer, or per modality's set of
experts in a layer: "l_aux" and "z_loss" (scalars), "moe_stats" ([N + 3], see moe/stats.py), "moe_layers" (labels: 3, or
"3_image" and "3_text"). N experts.
"""

import logging
import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Tuple

import torch
from fairseq.criterions import FairseqCriterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from torch import Tensor

from fairseq_mhmoe.criterions.routing_report import DEFAULT_MAP_INTERVAL, DEFAULT_WATCH_WINDOW, RoutingReport

COMBINE_METHODS = ("sum", "average")
DEFAULT_GATE_LOSS_WEIGHT = 0.01

logger = logging.getLogger(__name__)


@dataclass
class MoELossConfig(FairseqDataclass):
    """Options of every criterion for models with MoE layers."""

    moe_gate_loss_wt: float = field(
        default=DEFAULT_GATE_LOSS_WEIGHT,
        metadata={"help": "weight of the load-balancing loss in training; 0 leaves it out"},
    )
    moe_gate_loss_combine_method: ChoiceEnum(COMBINE_METHODS) = field(
        default="sum",
        metadata={"help": "how the losses of the MoE layers (balance and z) make one: their sum or their average"},
    )
    moe_z_loss_wt: float = field(
        default=0.0,
        metadata={"help": "weight of the router z-loss in training; 0 leaves it out"},
    )
    moe_log_expert_load: bool = field(
        default=False,
        metadata={
            "help": "log every expert's share of the choices, per MoE layer (JSON and TensorBoard); for small models: "
            "with a thousand experts in all, fairseq's meters take tenths of a second per update"
        },
    )
    moe_load_map_interval: int = field(
        default=DEFAULT_MAP_INTERVAL,
        metadata={
            "help": "updates between two pictures of the load (MoE layers x experts) in TensorBoard, which validation "
            "adds too; 0 draws none; needs --tensorboard-logdir"
        },
    )
    moe_watch_window: int = field(
        default=DEFAULT_WATCH_WINDOW,
        metadata={
            "help": "updates over which the load is added up to warn of experts without a choice and of collapsed or "
            "uniform routers; longer if the batches are very small; 0 never warns"
        },
    )


def check_weight(option: str, weight: float) -> None:
    """ValueError unless a weight is finite and not negative."""
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"{option} {weight}: expected a number of 0 or more; 0 leaves that loss out")


class MoELosses:
    """What the MoE layers add to a criterion's loss and to its log.

    Args:
        cfg: a MoELossConfig, or anything with its fields.
    Raises:
        ValueError: a weight, a method or an interval that can't be.
    """

    def __init__(self, cfg: Any):
        check_weight("--moe-gate-loss-wt", cfg.moe_gate_loss_wt)
        check_weight("--moe-z-loss-wt", cfg.moe_z_loss_wt)
        if cfg.moe_gate_loss_combine_method not in COMBINE_METHODS:
            raise ValueError(
                f"--moe-gate-loss-combine-method {cfg.moe_gate_loss_combine_method}: "
                f"expected one of {', '.join(COMBINE_METHODS)}"
            )
        self.gate_weight = cfg.moe_gate_loss_wt
        self.z_weight = cfg.moe_z_loss_wt
        self.average = cfg.moe_gate_loss_combine_method == "average"
        self.log_expert_load = cfg.moe_log_expert_load
        # the criterion's attribute `routing_report`, told of every update by integration/routing_reports.py
        self.report = RoutingReport(cfg.moe_load_map_interval, cfg.moe_watch_window, self.gate_weight, self.z_weight)
        self.warned_dense = False

    def add(self, loss: Tensor, extra: Dict[str, Any], sample_size: float, training: bool) -> Tuple[Tensor, Dict]:
        """The loss with the extra losses in training, as it is in evaluation.

        The extra losses are means over sub-tokens; times sample_size they survive the trainer's division by it.

        Args:
            loss: scalar, a sum over the batch.
            extra: second part of the model's output; see the module.
            sample_size: what the gradient is divided by.
        Returns:
            (loss, what to log about the MoE layers: sums over batches and ranks).
        """
        if not extra.get("l_aux"):
            self._warn_dense()
            return loss, {}
        gate_loss, z_loss = self._combine(extra["l_aux"]), self._combine(extra["z_loss"])
        if training:
            # Weights of 0 are left out, not multiplied: 0 * inf would be NaN.
            if self.gate_weight:
                loss = loss + self.gate_weight * sample_size * gate_loss
            if self.z_weight:
                loss = loss + self.z_weight * sample_size * z_loss
        return loss, self._logged(extra, gate_loss, z_loss, sample_size)

    def _combine(self, losses: List[Tensor]) -> Tensor:
        """One scalar out of one per MoE layer."""
        total = torch.stack(losses).sum()
        return total / len(losses) if self.average else total

    def _logged(self, extra: Dict[str, Any], gate_loss: Tensor, z_loss: Tensor, sample_size: float) -> Dict[str, Any]:
        output = {
            "moe_gate_loss": gate_loss.detach() * sample_size,
            "moe_z_loss": z_loss.detach() * sample_size,
        }
        for layer, layer_loss, stats in zip(extra["moe_layers"], extra["l_aux"], extra["moe_stats"], strict=True):
            output[f"moe_l{layer}_gate_loss"] = layer_loss.detach() * sample_size
            output[f"moe_l{layer}_stats"] = stats.detach()
        if self.log_expert_load:
            output["moe_log_expert_load"] = 1
        return output

    def _warn_dense(self) -> None:
        """Says once which options do nothing for a model without MoE layers."""
        if self.warned_dense:
            return
        self.warned_dense = True
        without_effect = []
        if self.gate_weight not in (0, DEFAULT_GATE_LOSS_WEIGHT):
            without_effect.append("--moe-gate-loss-wt")
        if self.average:
            without_effect.append("--moe-gate-loss-combine-method")
        if self.z_weight:
            without_effect.append("--moe-z-loss-wt")
        if self.log_expert_load:
            without_effect.append("--moe-log-expert-load")
        without_effect += self.report.options_set()
        if without_effect:
            logger.warning("no effect on a model without MoE layers: %s", ", ".join(without_effect))


class MoECriterion(FairseqCriterion):
    """A criterion whose loss has those of the MoE layers in training, and whose log is sums over batches and ranks."""

    def __init__(self, cfg, task):
        super().__init__(task)
        self.moe_losses = MoELosses(cfg)
        self.routing_report = self.moe_losses.report

    def with_moe_losses(
        self, loss: Tensor, extra: Dict[str, Any], sample_size: float, logged: Dict[str, Any], training: bool
    ) -> Tuple[Tensor, float, Dict[str, Any]]:
        """What `forward` returns; the arguments but `logged`, which the new figures go into, as of MoELosses.add."""
        loss, of_layers = self.moe_losses.add(loss, extra, sample_size, training)
        logged.update(of_layers)
        logged["loss"] = loss.detach()
        return loss, sample_size, logged

    @staticmethod
    def logging_outputs_can_be_summed():
        """All of them are sums."""
        return True
