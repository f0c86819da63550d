"""Cross entropy of the masked symbols of captions, with BEiT-3's label smoothing.

M masked positions, V symbols.
"""

from dataclasses import dataclass, field
from typing import Tuple

import torch
import torch.nn.functional as F
from fairseq.criterions import register_criterion
from torch import Tensor

from fairseq_mhmoe.criterions.moe_losses import MoECriterion, MoELossConfig
from fairseq_mhmoe.criterions.moe_metrics import log_losses, log_routing
from fairseq_mhmoe.criterions.stream_metrics import log_parts, part_sums

PART = "pair_text"


@dataclass
class CaptioningConfig(MoELossConfig):
    """Options of the criterion, beside those of the MoE layers' losses."""

    label_smoothing: float = field(
        default=0.1, metadata={"help": "probability that training wants for all other symbols together; 0 for none"}
    )
    drop_worst_ratio: float = field(
        default=0.0,
        metadata={"help": "share of a batch's masked symbols, those with the largest losses, that training leaves out"},
    )
    drop_worst_after: int = field(
        default=0, metadata={"help": "updates after which --drop-worst-ratio takes effect (BEiT-3: 12000)"}
    )


@register_criterion("captioning", dataclass=CaptioningConfig)
class Captioning(MoECriterion):
    """In training cross entropy with smoothed labels and the losses of the MoE layers; in evaluation plain nll.

    The sample size, which the gradient is divided by, is the number of masked positions that are not left out. `ppl`
    and `accuracy_text` are over all of them.
    """

    def __init__(self, cfg, task):
        super().__init__(cfg, task)
        if not 0 <= cfg.label_smoothing < 1:
            raise ValueError(f"--label-smoothing {cfg.label_smoothing}: expected 0 (none) or more, and less than 1")
        if not 0 <= cfg.drop_worst_ratio < 1:
            raise ValueError(f"--drop-worst-ratio {cfg.drop_worst_ratio}: expected 0 (none) or more, and less than 1")
        if cfg.drop_worst_after < 0 or (cfg.drop_worst_after and not cfg.drop_worst_ratio):
            raise ValueError(
                f"--drop-worst-after {cfg.drop_worst_after}: expected a number of updates, with --drop-worst-ratio"
            )
        self.smoothing = cfg.label_smoothing
        self.dropped, self.dropped_after = cfg.drop_worst_ratio, cfg.drop_worst_after
        # number of the update, which the task tells
        self.update = 0

    def forward(self, model, sample):
        """Loss of one batch.

        Args:
            model: (out, extra); out["pair"]["text"] are logits [M, V], extra is as moe_losses.py tells.
            sample: a batch of the task; "targets"["pair"]["text"] int64 [M].
        Returns:
            (loss summed over the batch, sample size that the gradient is divided by, sums to log).
        """
        out, extra = model(**sample["net_input"])
        targets = sample["targets"]["pair"]["text"]
        of_each, nll, correct = smoothed_cross_entropy(out["pair"]["text"], targets, self._smoothing())
        kept = self._kept(len(targets))
        if kept < len(targets):
            of_each = of_each.topk(kept, largest=False).values
        loss = of_each.sum()
        logging_output = {
            "nll_loss": nll,
            "ntokens": len(targets),
            "nsentences": sample["nsentences"],
            "sample_size": kept,
            **part_sums({PART: (nll, len(targets), correct)}, nll),
        }
        return self.with_moe_losses(loss, extra, kept, logging_output, self.training)

    def _smoothing(self) -> float:
        return self.smoothing if self.training else 0.0

    def _kept(self, positions: int) -> int:
        """How many of a batch's positions count."""
        if not self.training or not self.dropped or self.update <= self.dropped_after:
            return positions
        return min(positions, max(1, int(positions * (1 - self.dropped))))

    @staticmethod
    def reduce_metrics(logging_outputs):
        """Makes ratios of the sums: losses in bits per masked symbol, accuracy, the routing."""
        log_losses(logging_outputs)
        log_parts(logging_outputs)
        log_routing(logging_outputs)


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tuple[Tensor, Tensor, Tensor]:
    """Cross entropy with the target at 1 - smoothing and all other symbols at smoothing / (V - 1), in nats.

    Args:
        logits: [M, V], M may be 0.
        targets: [M], int64.
    Returns:
        (of each position [M]; without gradient: the sum without smoothing, positions whose largest logit is the
        target's); float32, float64 if the logits are.
    """
    exact = torch.promote_types(logits.dtype, torch.float32)
    log_probs = F.log_softmax(logits, dim=-1, dtype=exact)
    of_target = -log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)
    with torch.no_grad():
        nll = of_target.sum()
        correct = logits.argmax(-1).eq(targets).sum().to(exact)
    if smoothing == 0:
        return of_target, nll, correct
    of_others = -log_probs.sum(-1) - of_target
    return (1 - smoothing) * of_target + smoothing / (logits.shape[1] - 1) * of_others, nll, correct
