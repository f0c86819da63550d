"""Losses of fine-tuning: `vqa`, soft scores of answers, and `nlvr2`, true or false; with the losses of MoE layers.

B examples, C classes.
"""

import torch
import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from torch import Tensor

from fairseq_mhmoe.criterions.moe_losses import MoECriterion, MoELossConfig
from fairseq_mhmoe.criterions.moe_metrics import log_routing, total


class FinetuningLoss(MoECriterion):
    """Mean over examples of what `example_sums` adds up, and in training the losses of the MoE layers.

    `loss` is in nats. The figure is a percentage over all examples of an interval or a validation set.
    """

    FIGURE = ""

    def example_sums(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(sum of the losses in nats, sum of the scores from 0 to 1): logits float32 [B, C]."""
        raise NotImplementedError

    def forward(self, model, sample):
        """Loss of one batch: (sum over the batch, sample size that the gradient is divided by, sums to log)."""
        logits, extra = model(**sample["net_input"])
        nll, score = self.example_sums(logits.float(), sample["targets"])
        rows = sample["nsentences"]
        if rows == 0:  # a blank batch takes part in the exchanges only, see integration/empty_batches.py
            nll, score = nll * 0, score * 0
        logging_output = {
            "task_loss": nll.detach(),
            "score": score,
            "ntokens": sample["ntokens"],
            "nsentences": rows,
            "sample_size": rows,
        }
        return self.with_moe_losses(nll, extra, rows, logging_output, self.training)

    @classmethod
    def reduce_metrics(cls, logging_outputs):
        """Makes ratios of the sums: losses in nats per example, the figure in percent, the routing."""
        rows = total(logging_outputs, "sample_size")
        if rows == 0:
            return
        for key in ("loss", "task_loss"):
            metrics.log_scalar(key, total(logging_outputs, key) / rows, rows, round=4)
        metrics.log_scalar(cls.FIGURE, 100 * total(logging_outputs, "score") / rows, rows, round=2)
        log_routing(logging_outputs)


@register_criterion("vqa", dataclass=MoELossConfig)
class VQALoss(FinetuningLoss):
    """Binary cross entropy of every answer with its soft score, summed over answers (BEiT-3; MH-MoE v1).

    `vqa_score`: the soft score of the answer with the largest logit.
    """

    FIGURE = "vqa_score"

    def example_sums(self, logits, targets):
        """targets [B, C]: scores from 0 to 1."""
        loss = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum")
        with torch.no_grad():
            score = targets.gather(1, logits.argmax(dim=1, keepdim=True)).sum()
        return loss, score.to(logits.dtype)


@register_criterion("nlvr2", dataclass=MoELossConfig)
class NLVR2Loss(FinetuningLoss):
    """Cross entropy of true and false; `accuracy`."""

    FIGURE = "accuracy"

    def example_sums(self, logits, targets):
        """targets [B]: 0 or 1; others count as wrong, and in no loss."""
        loss = F.cross_entropy(logits, targets, reduction="sum")
        with torch.no_grad():
            score = logits.argmax(dim=1).eq(targets).sum()
        return loss, score.to(logits.dtype)
