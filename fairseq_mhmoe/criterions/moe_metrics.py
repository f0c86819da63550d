"""From summed logging outputs to the figures in the log.

Routing is logged as one hidden vector per MoE layer that fairseq's meters add up; the ratios are derived from the total
when a line is printed, so that the figures of an interval, an epoch or a validation set are those of all its
sub-tokens, not averages of batches. Shape letters: N experts.
"""

import math
import re
from functools import partial
from operator import attrgetter

import torch
from fairseq import utils
from fairseq.logging import metrics

from fairseq_mhmoe.moe.stats import unpack

# A layer's number, and with separate experts the modality that a set of them is for.
LAYER = r"\d+(?:_(?:image|text))?"
LAYER_STATS = re.compile(rf"^moe_l({LAYER})_stats$")

# Smaller numbers come first in a line.
PRIORITY_ROUTING = 25
PRIORITY_LAYER = 900


def active(stats):
    """Share of experts selected more than half as often, per sub-token, as under an even load."""
    return float((stats.load > 0.5 * stats.load.mean()).double().mean())


# Figures of a layer's statistics, see moe/stats.py.
ROUTING = {
    "dropped": attrgetter("dropped_share"),
    "entropy": attrgetter("entropy"),
    "load_max": attrgetter("load_max"),
    "active": active,
    "dead_share": attrgetter("dead_share"),
    "load_entropy": attrgetter("load_entropy"),
    "load_variation": attrgetter("load_variation"),
}


def total(logging_outputs, key):
    """Sum of one entry over the logging outputs; those without it count as 0."""
    return sum(output[key] for output in logging_outputs if key in output)


def log_losses(logging_outputs):
    """Logs loss, nll_loss and ppl; losses in bits (base 2), as fairseq does."""
    sample_size = total(logging_outputs, "sample_size")
    tokens = total(logging_outputs, "ntokens")
    nll = total(logging_outputs, "nll_loss")
    loss = total(logging_outputs, "loss")
    metrics.log_scalar("loss", loss / sample_size / math.log(2), sample_size, round=3)
    metrics.log_scalar("nll_loss", nll / tokens / math.log(2), tokens, round=3)
    metrics.log_derived("ppl", lambda meters: utils.get_perplexity(meters["nll_loss"].avg))


def log_routing(logging_outputs):
    """Logs the extra losses (as they enter the loss, without weight) and how sub-tokens were spread over experts."""
    if not logging_outputs or "moe_gate_loss" not in logging_outputs[0]:
        return
    sample_size = total(logging_outputs, "sample_size")
    for key in ("moe_gate_loss", "moe_z_loss"):
        loss = total(logging_outputs, key) / sample_size
        metrics.log_scalar(key, loss, sample_size, priority=PRIORITY_ROUTING, round=4)

    layers = [match[1] for match in map(LAYER_STATS.match, logging_outputs[0]) if match]
    # One copy to the host for all layers.
    stats = torch.stack([total(logging_outputs, f"moe_l{layer}_stats") for layer in layers]).double().cpu()
    for layer, layer_stats in zip(layers, stats, strict=True):
        metrics.log_scalar_sum(f"_moe_l{layer}_stats", layer_stats)
        loss = total(logging_outputs, f"moe_l{layer}_gate_loss") / sample_size
        metrics.log_scalar(f"moe_l{layer}_gate_loss", loss, sample_size, priority=PRIORITY_LAYER, round=4)
        if "moe_log_expert_load" in logging_outputs[0]:
            log_expert_load(layer, unpack(layer_stats).load)

    for name in ROUTING:
        metrics.log_derived(f"moe_{name}", partial(mean_over, layers, name), priority=PRIORITY_ROUTING)
        for layer in layers:
            metrics.log_derived(f"moe_l{layer}_{name}", partial(mean_over, [layer], name), priority=PRIORITY_LAYER)


def log_expert_load(layer, load):
    """Logs the part of one layer's choices that went to each expert; load [N]."""
    choices = float(load.sum())
    for expert, wanted in enumerate(load.tolist()):
        share = wanted / max(choices, 1.0)
        metrics.log_scalar(f"moe_l{layer}_e{expert}_load", share, choices, priority=PRIORITY_LAYER, round=4)


def mean_over(layers, name, meters):
    """Mean of one figure over MoE layers; 0 before anything was seen. Four digits are enough for a log."""
    figures = [figures_of(meters[f"_moe_l{layer}_stats"]) for layer in layers]
    return round(sum(of_layer[name] for of_layer in figures) / len(layers), 4)


def figures_of(meter):
    """All figures of one layer's summed statistics, zeros if the meter was just reset.

    A meter keeps them until its sum changes: they are asked for one by one, every update.
    """
    if not torch.is_tensor(meter.sum):
        return dict.fromkeys(ROUTING, 0.0)
    known_sum, figures = getattr(meter, "mhmoe_figures", (None, None))
    if known_sum is not meter.sum:  # an update makes a new tensor
        stats = unpack(meter.sum)
        figures = {name: figure(stats) for name, figure in ROUTING.items()}
        meter.mhmoe_figures = meter.sum, figures
    return figures
