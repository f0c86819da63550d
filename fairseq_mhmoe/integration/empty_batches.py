"""A rank without a batch takes part all the same, with fairseq 0.12.3.1.

When batches do not come out even, the trainer gives a rank the first batch again and multiplies its loss by zero. That
batch would be routed and counted, and it takes the rank's real batches of the same update (--update-freq) out of the
divisor and out of the log. A batch of nothing but pads has no loss, no gradient, no tokens and no statistics by itself;
criteria of fairseq still count its rows as sentences, which --sentence-avg would divide by.

A blank batch of images, texts and pairs has one row of each stream, which the model takes for nothing but padding; one
of examples to be classified has the rows of one example, and their criterion knows it by its number of sentences, 0.
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
    if missing and dictionary is not None and is_known(self._dummy_batch):
        sample = blank_batch(self._dummy_batch, dictionary.pad())
    return original(self, sample, is_dummy)


def count_blank_as_nothing(original, task, sample, *args, **kwargs):
    """One batch of training or validation; a blank one counts for nothing, whatever the criterion says."""
    loss, sample_size, logged = original(task, sample, *args, **kwargs)
    if not is_known(sample) or sample.get("nsentences") != 0:
        return loss, sample_size, logged
    return loss, 0, {name: value * 0 for name, value in logged.items()}


def is_text(sample):
    """Whether this is a batch of a language model."""
    return isinstance(sample, dict) and "src_tokens" in sample.get("net_input", {}) and "target" in sample


def is_multimodal(sample):
    """Whether this is a batch of streams of images, texts and pairs."""
    return isinstance(sample, dict) and "streams" in sample and "net_input" in sample and "targets" in sample


def is_examples(sample):
    """Whether this is a batch of examples that a head of a multimodal model classifies."""
    return isinstance(sample, dict) and "pair" in sample.get("net_input", {}) and "head" in sample["net_input"]


def is_known(sample):
    """Whether a batch has a form of which a blank one can be made."""
    return is_text(sample) or is_multimodal(sample) or is_examples(sample)


def blank_batch(sample, pad):
    """A batch of the same form in which every token is a pad.

    Args:
        sample: a fairseq batch of a language model, [B, T], or of streams; it stays as it is.
        pad: the dictionary's number for padding.
    """
    if is_multimodal(sample):
        return blank_streams(sample, pad)
    if is_examples(sample):
        return blank_example(sample, pad)
    net_input = dict(sample["net_input"])
    net_input["src_tokens"] = torch.full_like(net_input["src_tokens"], pad)
    if "src_lengths" in net_input:
        net_input["src_lengths"] = torch.zeros_like(net_input["src_lengths"])
    target = torch.full_like(sample["target"], pad)
    blank = {**sample, "net_input": net_input, "target": target, "ntokens": 0, "nsentences": 0}
    if "nbytes" in sample:
        blank["nbytes"] = torch.zeros_like(sample["nbytes"])
    return blank


def blank_streams(sample, pad):
    """A batch with the same streams, each of one row that is nothing but padding, and no targets."""
    given = {name: stream for name, stream in sample["net_input"].items() if stream is not None}
    return {
        **sample,
        "id": sample["id"][:0],
        "nsentences": 0,
        "ntokens": 0,
        "net_input": {**sample["net_input"], **{name: blank_stream(stream, pad) for name, stream in given.items()}},
        "targets": {name: {key: kept[:0] for key, kept in sample["targets"][name].items()} for name in given},
        "streams": {name: dict.fromkeys(sample["streams"][name], 0) for name in given},
    }


def blank_example(sample, pad):
    """A batch of one example, whose rows are nothing but padding, that counts as none."""
    pair = sample["net_input"]["pair"]
    rows = len(pair["images"]) // max(sample["nsentences"], 1)
    net_input = {**sample["net_input"], "pair": blank_stream(pair, pad, rows)}
    targets = sample["targets"][:1]
    return {**sample, "id": sample["id"][:1], "nsentences": 0, "ntokens": 0, "net_input": net_input, "targets": targets}


def blank_stream(stream, pad, rows=1):
    """Some rows of a stream's inputs: black images without masks, pads for text, no positions."""
    blank = {**stream, "blank": True}
    for name, value in stream.items():
        if not torch.is_tensor(value):
            continue
        if name.endswith("_positions"):
            blank[name] = value[:0]
        else:
            blank[name] = torch.full_like(value[:rows], pad if name == "tokens" else 0)
    return blank
