"""Cross entropy with the losses that keep experts busy: balance (MH-MoE v1 eq. 10) and router z-loss."""

import logging
from dataclasses import dataclass, field

import torch.nn.functional as F
from fairseq.criterions import register_criterion
from omegaconf import II

from fairseq_mhmoe.criterions.chunked_cross_entropy import chunked_cross_entropy, chunked_sum_and_losses
from fairseq_mhmoe.criterions.moe_losses import MoECriterion, MoELossConfig
from fairseq_mhmoe.criterions.moe_metrics import log_losses, log_routing
from fairseq_mhmoe.criterions.source_metrics import byte_sums, log_sources, source_sums

DEFAULT_CHUNK = 256

logger = logging.getLogger(__name__)


@dataclass
class MoECrossEntropyConfig(MoELossConfig):
    """Options of the criterion, beside those of the MoE layers' losses."""

    chunked_cross_entropy: bool = field(
        default=False,
        metadata={
            "help": "never hold the logits of a whole batch, tokens x vocabulary, but those of a few tokens at a time: "
            "the same loss, much less memory with a large vocabulary; for models of this package"
        },
    )
    cross_entropy_chunk: int = field(
        default=DEFAULT_CHUNK,
        metadata={"help": "tokens at a time of --chunked-cross-entropy; with GPUs 1024 or more are faster"},
    )
    sentence_avg: bool = II("optimization.sentence_avg")


@register_criterion("moe_cross_entropy", dataclass=MoECrossEntropyConfig)
class MoECrossEntropy(MoECriterion):
    """nll + weight * sample_size * combine(l_aux) in training; nll alone in evaluation, so that ppl is comparable.

    How a model reports the extra losses stands in moe_losses.py. Other language models go without.
    """

    def __init__(self, cfg, task):
        super().__init__(cfg, task)
        if cfg.cross_entropy_chunk < 1:
            raise ValueError(f"--cross-entropy-chunk {cfg.cross_entropy_chunk}: expected a number of tokens, 1 or more")
        if cfg.cross_entropy_chunk != DEFAULT_CHUNK and not cfg.chunked_cross_entropy:
            logger.warning("--cross-entropy-chunk has no effect without --chunked-cross-entropy")
        self.chunk = cfg.cross_entropy_chunk if cfg.chunked_cross_entropy else None
        self.sentence_avg = cfg.sentence_avg
        self.task = task

    def forward(self, model, sample, reduce=True):
        """Loss of one batch.

        Args:
            model: a language model; see the class.
            sample: a fairseq batch.
            reduce: False gives the cross entropy of each target position [B * T], without the extra losses.
        Returns:
            (loss summed over the batch, sample_size that the gradient is divided by, sums to log).
        """
        if self.chunk is None:
            net_output = model(**sample["net_input"])
            nll, losses = self.cross_entropy(model, net_output, sample, reduce)
        else:
            weight = output_weight(model)
            net_output = model(**sample["net_input"], features_only=True)
            nll, losses = self.chunked(model, net_output, weight, sample, reduce)
        extra = net_output[1] or {}
        sentences = sample.get("nsentences", sample["target"].size(0))
        sample_size = sentences if self.sentence_avg else sample["ntokens"]
        logging_output = {
            "nll_loss": nll.detach(),
            "ntokens": sample["ntokens"],
            "nsentences": sentences,
            "sample_size": sample_size,
        }
        if losses is not None:
            logging_output.update(source_sums(losses, sample, self.padding_idx, self.task.source_names))
        elif "nbytes" in sample:
            logging_output.update(byte_sums(nll, sample))
        return self.with_moe_losses(nll, extra, sample_size, logging_output, self.training and reduce)

    def cross_entropy(self, model, net_output, sample, reduce):
        """(sum over the targets that are no padding, or [B * T] one by one; the latter without gradient or None)."""
        log_probs = model.get_normalized_probs(net_output, log_probs=True)
        target = model.get_targets(sample, net_output).view(-1)
        log_probs = log_probs.view(target.size(0), -1)
        nll = F.nll_loss(log_probs, target, ignore_index=self.padding_idx, reduction="sum" if reduce else "none")
        if "source" not in sample:
            return nll, None
        return nll, -log_probs.detach().gather(1, target.unsqueeze(1)).squeeze(1)

    def chunked(self, model, net_output, weight, sample, reduce):
        """As cross_entropy, from features [B, T, D] and the output layer's weight [V, D]."""
        features = net_output[0].flatten(0, 1)
        target = model.get_targets(sample, net_output).view(-1)
        inputs = features, weight, target, self.padding_idx, self.chunk
        if "source" in sample and reduce:
            return chunked_sum_and_losses(*inputs)
        nll = chunked_cross_entropy(*inputs, reduce)
        return nll, nll.detach() if "source" in sample else None

    @staticmethod
    def reduce_metrics(logging_outputs):
        """Makes ratios of the sums: losses in bits per token, those of sources, the routing of every MoE layer."""
        log_losses(logging_outputs)
        log_sources(logging_outputs)
        log_routing(logging_outputs)


def output_weight(model):
    """The weight [V, D] of a model's output layer.

    Raises:
        ValueError: its output layer is not that of our models.
    """
    decoder = getattr(model, "decoder", None)
    if getattr(decoder, "adaptive_softmax", None) is not None:
        raise ValueError("--chunked-cross-entropy: the model has an adaptive softmax; leave out one of the two")
    weight = getattr(decoder, "output_weight", None)
    if weight is None:
        raise ValueError(
            f"--chunked-cross-entropy: expected a model of fairseq_mhmoe, got {type(model).__name__}, whose output "
            "layer may be of any kind; leave the option out"
        )
    return weight
