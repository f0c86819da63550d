"""A rank without a batch takes part all the same, with fairseq 0.12.3.1.

When batches do not come out even, the trainer gives a rank the first batch again and multiplies its loss by zero. That
batch would be routed and counted, and it takes the rank's real batches of the same update (--update-freq) out of the
divisor and out of the log. A batch of nothing but pads has no loss, no gradient, no tokens and no statistics by itself;
criteria of fairseq still count its rows as sentences, which --sentence-avg would divide by.
"""

import torch
from fairseq import trainer
from fairseq.tasks import FairseqTask

from fairseq_mhmoe.integration.hooks import wrap


def install():
    """Installs the hooks of this file."""
    wrap(trainer.Trainer, "_prepare_sample", prepare_sample)
    wrap(FairseqTask, "train_step", count_blank_as_nothing)
    wrap(FairseqTask, "valid_step", count_blank_as_nothing)


def prepare_sample(original, self, sample, is_dummy=False):
    """Brings a batch to the device, a blank one where there is none: (batch, whether its loss is to be ignored)."""
    dictionary = getattr(self.task, "source_dictionary", None)
    missing = sample is None or len(sample) == 0
    if missing and dictionary is not None and is_text(self._dummy_batch):
        sample = blank_batch(self._dummy_batch, dictionary.pad())
    return original(self, sample, is_dummy)


def count_blank_as_nothing(original, task, sample, *args, **kwargs):
    """One batch of training or validation; a blank one counts for nothing, whatever the criterion says."""
    loss, sample_size, logged = original(task, sample, *args, **kwargs)
    if not is_text(sample) or sample.get("nsentences") != 0:
        return loss, sample_size, logged
    return loss, 0, {name: value * 0 for name, value in logged.items()}


def is_text(sample):
    """Whether this is a batch of a language model."""
    return isinstance(sample, dict) and "src_tokens" in sample.get("net_input", {}) and "target" in sample


def blank_batch(sample, pad):
    """A batch of the same form, [B, T], in which every token is a pad.

    Args:
        sample: a fairseq batch of a language model; it stays as it is.
        pad: the dictionary's number for padding.
    """
    net_input = dict(sample["net_input"])
    net_input["src_tokens"] = torch.full_like(net_input["src_tokens"], pad)
    if "src_lengths" in net_input:
        net_input["src_lengths"] = torch.zeros_like(net_input["src_lengths"])
    target = torch.full_like(sample["target"], pad)
    blank = {**sample, "net_input": net_input, "target": target, "ntokens": 0, "nsentences": 0}
    if "nbytes" in sample:
        blank["nbytes"] = torch.zeros_like(sample["nbytes"])
    return blank
