"""Cross entropy with the losses that keep experts busy: balance (MH-MoE v1 eq. 10) and router z-loss."""

import logging
import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from fairseq_mhmoe.criterions.chunked_cross_entropy import chunked_cross_entropy, chunked_sum_and_losses
from fairseq_mhmoe.criterions.moe_metrics import log_losses, log_routing
from fairseq_mhmoe.criterions.routing_report import DEFAULT_MAP_INTERVAL, DEFAULT_WATCH_WINDOW, RoutingReport
from fairseq_mhmoe.criterions.source_metrics import byte_sums, log_sources, source_sums

COMBINE_METHODS = ("sum", "average")
DEFAULT_GATE_LOSS_WEIGHT = 0.01
DEFAULT_CHUNK = 256

logger = logging.getLogger(__name__)


@dataclass
class MoECrossEntropyConfig(FairseqDataclass):
    """Options of the criterion."""

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
class MoECrossEntropy(FairseqCriterion):
    """nll + weight * sample_size * combine(l_aux) in training; nll alone in evaluation, so that ppl is comparable.

    The extra losses are means over sub-tokens; times sample_size they survive the trainer's division by it.
    A model reports them in the second part of its output, as lists with one entry per MoE layer: "l_aux" and "z_loss"
    (scalars), "moe_stats" ([N + 3], see moe/stats.py), "moe_layers" (numbers). Other language models go without.
    """

    def __init__(
        self,
        task,
        moe_gate_loss_wt,
        moe_gate_loss_combine_method,
        moe_z_loss_wt,
        moe_log_expert_load,
        moe_load_map_interval,
        moe_watch_window,
        chunked_cross_entropy,
        cross_entropy_chunk,
        sentence_avg,
    ):
        super().__init__(task)
        for option, weight in (("--moe-gate-loss-wt", moe_gate_loss_wt), ("--moe-z-loss-wt", moe_z_loss_wt)):
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"{option} {weight}: expected a number of 0 or more; 0 leaves that loss out")
        if moe_gate_loss_combine_method not in COMBINE_METHODS:
            raise ValueError(
                f"--moe-gate-loss-combine-method {moe_gate_loss_combine_method}: "
                f"expected one of {', '.join(COMBINE_METHODS)}"
            )
        if cross_entropy_chunk < 1:
            raise ValueError(f"--cross-entropy-chunk {cross_entropy_chunk}: expected a number of tokens, 1 or more")
        if cross_entropy_chunk != DEFAULT_CHUNK and not chunked_cross_entropy:
            logger.warning("--cross-entropy-chunk has no effect without --chunked-cross-entropy")
        self.gate_weight = moe_gate_loss_wt
        self.z_weight = moe_z_loss_wt
        self.average = moe_gate_loss_combine_method == "average"
        self.log_expert_load = moe_log_expert_load
        self.chunk = cross_entropy_chunk if chunked_cross_entropy else None
        self.sentence_avg = sentence_avg
        self.task = task
        self.warned_dense = False
        # told of every update by integration/routing_reports.py
        self.routing_report = RoutingReport(moe_load_map_interval, moe_watch_window, moe_gate_loss_wt, moe_z_loss_wt)

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
        loss = nll
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
        if extra.get("l_aux"):
            gate_loss, z_loss = self.combine(extra["l_aux"]), self.combine(extra["z_loss"])
            if self.training and reduce:
                # Weights of 0 are left out, not multiplied: 0 * inf would be NaN.
                if self.gate_weight:
                    loss = loss + self.gate_weight * sample_size * gate_loss
                if self.z_weight:
                    loss = loss + self.z_weight * sample_size * z_loss
            logging_output.update(self.routing_output(extra, gate_loss, z_loss, sample_size))
        else:
            self.warn_dense()
        logging_output["loss"] = loss.detach()
        return loss, sample_size, logging_output

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

    def combine(self, losses):
        """One scalar out of one per MoE layer."""
        total = torch.stack(losses).sum()
        return total / len(losses) if self.average else total

    def routing_output(self, extra, gate_loss, z_loss, sample_size):
        """What to log about the MoE layers; every entry may be summed over batches and ranks."""
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

    def warn_dense(self):
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
        without_effect += self.routing_report.options_set()
        if without_effect:
            logger.warning("no effect on a model without MoE layers: %s", ", ".join(without_effect))

    @staticmethod
    def reduce_metrics(logging_outputs):
        """Makes ratios of the sums: losses in bits per token, those of sources, the routing of every MoE layer."""
        log_losses(logging_outputs)
        log_sources(logging_outputs)
        log_routing(logging_outputs)

    @staticmethod
    def logging_outputs_can_be_summed():
        """All of them are sums."""
        return True


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
