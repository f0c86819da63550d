"""Loss, tokens and bits per byte of each source of the data, a corpus or a language.

The sums of all sources are one tensor, so that a hundred cost what one costs; the names travel in its key. The figures
are derived when a line is printed, from all tokens of an interval, an epoch or a validation set.
B batch, T block length, J sources.
"""

import math
from functools import partial

import torch
from fairseq.logging import metrics
from torch import Tensor

KEY = "source_sums:"
PRIORITY_BYTES = 30
PRIORITY_SOURCE = 950


@torch.no_grad()
def source_sums(losses: Tensor, sample: dict, pad: int, names) -> dict[str, Tensor]:
    """Sums over the targets of a batch, to be added up over batches and ranks.

    Args:
        losses: [B * T] cross entropy of every target, nats; those of pads don't count.
        sample: a fairseq batch; "source" [B] is the number of each row's source, "nbytes" [B], where they are known,
            the bytes of text that its targets stand for.
        names: J names in the order of these numbers.
    Returns:
        {key with the names: float64 [3, J] of losses, tokens, bytes}; bytes are 0 where they are not known.
    """
    target = sample["target"]
    counted = target.ne(pad)
    losses = losses.detach().view_as(target).double().masked_fill(~counted, 0)
    nbytes = sample.get("nbytes")
    nbytes = torch.zeros_like(losses[:, 0]) if nbytes is None else nbytes.to(losses)
    rows = torch.stack([losses.sum(1), counted.sum(1).to(losses), nbytes])
    return {KEY + ",".join(names): rows.new_zeros(3, len(names)).index_add_(1, sample["source"], rows)}


def byte_sums(nll: Tensor, sample: dict) -> dict[str, Tensor]:
    """As `source_sums` for data of one source, which has no name: its loss `nll` is known already, nats."""
    nbytes = sample["nbytes"]
    tokens = torch.as_tensor(sample["ntokens"], device=nbytes.device)
    return {KEY: torch.stack([part.detach().sum().double() for part in (nll, tokens, nbytes)]).unsqueeze(1)}


def log_sources(logging_outputs) -> None:
    """Logs bits per byte, and for each of several sources its loss (base 2), perplexity, tokens and bits per byte."""
    for key in [key for key in logging_outputs[0] if key.startswith(KEY)] if logging_outputs else ():
        sums = sum(output[key] for output in logging_outputs if key in output).double().cpu()
        meter = f"_{key}"
        metrics.log_scalar_sum(meter, sums)
        figures = ["loss", "ppl", "tokens"]
        if sums[2].any():
            metrics.log_derived("bits_per_byte", partial(of_all, meter), PRIORITY_BYTES)
            figures.append("bits_per_byte")
        for number, name in enumerate(key.removeprefix(KEY).split(",") if key != KEY else ()):
            for figure in figures:
                value = partial(of_one, meter, number, FIGURES[figure])
                metrics.log_derived(f"src_{name}_{figure}", value, PRIORITY_SOURCE)


def of_one(meter, number, figure, meters):
    """A figure of one source; None when the interval has no token of it."""
    sums = meters[meter].sum
    if not torch.is_tensor(sums):  # just reset
        return None
    nll, tokens, nbytes = sums[:, number].tolist()
    return figure(nll, tokens, nbytes) if tokens else None


def of_all(meter, meters):
    """Bits per byte of all sources together; None when a source with tokens has no count of bytes."""
    sums = meters[meter].sum
    if not torch.is_tensor(sums) or (sums[1].bool() & ~sums[2].bool()).any():
        return None
    return bits_per_byte(*sums.sum(1).tolist())


def bits_per_token(nll, tokens, _):
    """As fairseq logs losses."""
    return round(nll / tokens / math.log(2), 3)


def perplexity(nll, tokens, _):
    """Infinite where a float can't hold it."""
    try:
        return round(math.exp(nll / tokens), 2)
    except OverflowError:
        return math.inf


def bits_per_byte(nll, _, nbytes):
    """Comparable between vocabularies; None where bytes are not known."""
    return round(nll / nbytes / math.log(2), 4) if nbytes else None


FIGURES = {
    "loss": bits_per_token,
    "ppl": perplexity,
    "tokens": lambda nll, tokens, nbytes: int(tokens),
    "bits_per_byte": bits_per_byte,
}
