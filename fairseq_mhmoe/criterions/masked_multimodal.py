"""Cross entropy of masked image patches (codes of a visual tokenizer) and masked text tokens, in three streams."""

from dataclasses import dataclass, field

from fairseq.criterions import register_criterion

from fairseq_mhmoe.criterions.moe_losses import MoECriterion, MoELossConfig, check_weight
from fairseq_mhmoe.criterions.moe_metrics import log_losses, log_routing
from fairseq_mhmoe.criterions.stream_metrics import PARTS, STREAMS, log_parts, masked_cross_entropy, part_sums


@dataclass
class MaskedMultimodalConfig(MoELossConfig):
    """Options of the criterion, beside those of the MoE layers' losses."""

    image_loss_weight: float = field(
        default=1.0,
        metadata={"help": "weight in training of the masked positions of images alone; 0 leaves them out"},
    )
    text_loss_weight: float = field(
        default=1.0,
        metadata={"help": "weight in training of the masked positions of text alone; 0 leaves them out"},
    )
    pair_loss_weight: float = field(
        default=1.0,
        metadata={"help": "weight in training of the masked positions of image-text pairs; 0 leaves them out"},
    )


@register_criterion("masked_multimodal", dataclass=MaskedMultimodalConfig)
class MaskedMultimodal(MoECriterion):
    """sum of weight * nll over all masked positions, and in training the losses of the MoE layers.

    The sample size, which the gradient is divided by, is the sum of the same weights: the loss is a weighted mean over
    masked positions, however many processes and batches they come from. In evaluation all weights are 1, but those of
    0, so that losses and perplexities compare between trainings. `ppl` is 2 ^ (mean bits of all these positions): our
    reading of the one validation perplexity of MH-MoE v1. It mixes image codes and text tokens by their numbers;
    `ppl_image` and `ppl_text` hold them apart.
    """

    def __init__(self, cfg, task):
        super().__init__(cfg, task)
        self.weights = {stream: float(getattr(cfg, f"{stream}_loss_weight")) for stream in STREAMS}
        for stream, weight in self.weights.items():
            check_weight(f"--{stream}-loss-weight", weight)
        if not any(self.weights.values()):
            options = ", ".join(f"--{stream}-loss-weight" for stream in STREAMS)
            raise ValueError(f"{options} are all 0: nothing would be learnt; give one of them a weight")

    def forward(self, model, sample):
        """Loss of one batch.

        Args:
            model: (out, extra) of the streams in sample["net_input"]; out[stream][modality] are logits [M, C] of its
                masked positions, extra is as moe_losses.py tells.
            sample: a batch of the task; "targets"[stream][modality] [M] int64, None for a stream that is not there.
        Returns:
            (loss summed over the batch, sample size that the gradient is divided by, sums to log).
        """
        out, extra = model(**sample["net_input"])
        # of no position, but with a graph: every rank takes part in the exchanges of the backward pass
        loss = nll = sum(logits[:0].float().sum() for of_stream in out.values() for logits in of_stream.values())
        found, sample_size, ntokens = {}, 0, 0
        for name, (stream, modality) in PARTS.items():
            targets = (sample["targets"].get(stream) or {}).get(modality)
            if targets is None:
                continue
            of_part, correct = masked_cross_entropy(out[stream][modality], targets)
            found[name] = of_part, targets.numel(), correct
            weight = self.weights[stream]
            if weight == 0:
                continue
            if not self.training:
                weight = 1
            loss, nll = loss + weight * of_part, nll + of_part.detach()
            sample_size += weight * targets.numel()
            ntokens += targets.numel()
        logging_output = {
            "nll_loss": nll.detach(),
            "ntokens": ntokens,
            "nsentences": sample["nsentences"],
            "sample_size": sample_size,
            **part_sums(found, nll),
        }
        return self.with_moe_losses(loss, extra, sample_size, logging_output, self.training)

    @staticmethod
    def reduce_metrics(logging_outputs):
        """Makes ratios of the sums: losses in bits per masked position, those of each part, the routing."""
        log_losses(logging_outputs)
        log_parts(logging_outputs)
        log_routing(logging_outputs)
