"""Loss, perplexity and accuracy of masked positions by stream (image, text, pair) and modality.

The sums of all parts are one tensor, of one form on every rank whatever streams its batch has. The figures are derived
when a line is printed, from all masked positions of an interval, an epoch or a validation set.

PARTS are image, text, pair_image, pair_text: masked positions of image patches and of text tokens, in images and texts
alone and in image-text pairs. M masked positions, C classes (codes or vocabulary).
"""

from functools import partial
from typing import Callable, Dict, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from fairseq.logging import metrics
from torch import Tensor

from fairseq_mhmoe.criterions.source_metrics import bits_per_token, perplexity

# name -> (stream, modality)
PARTS = {
    "image": ("image", "image"),
    "text": ("text", "text"),
    "pair_image": ("pair", "image"),
    "pair_text": ("pair", "text"),
}
STREAMS = ("image", "text", "pair")
MODALITIES = ("image", "text")
KEY = "stream_sums"
METER = f"_{KEY}"
PRIORITY_MODALITY = 30
PRIORITY_PART = 940


def masked_cross_entropy(logits: Tensor, targets: Tensor) -> Tuple[Tensor, Tensor]:
    """(sum of the cross entropies in nats, number of positions whose largest logit is the target's, without gradient).

    Args:
        logits: [M, C], M may be 0: the sum is then 0 with a gradient of 0.
        targets: [M], int64.
    Returns:
        two scalars; float32, float64 if the logits are.
    """
    exact = torch.promote_types(logits.dtype, torch.float32)
    nll = F.nll_loss(F.log_softmax(logits, dim=-1, dtype=exact), targets, reduction="sum")
    with torch.no_grad():
        correct = logits.argmax(-1).eq(targets).sum()
    return nll, correct.to(exact)


def part_sums(found: Dict[str, Tuple[Tensor, int, Tensor]], like: Tensor) -> Dict[str, Tensor]:
    """What to log of a batch, to be added up over batches and ranks.

    Args:
        found: name of a part -> (sum of losses, masked positions, correct ones), of those that the batch has.
        like: a tensor on the device.
    Returns:
        {KEY: float64 [3, 4], columns in the order of PARTS}.
    """
    sums = torch.zeros(3, len(PARTS), dtype=torch.float64, device=like.device)
    for column, name in enumerate(PARTS):
        if name in found:
            nll, masked, correct = found[name]
            sums[0, column] = nll.detach()
            sums[1, column].fill_(masked)
            sums[2, column] = correct
    return {KEY: sums}


def log_parts(logging_outputs: Sequence[Dict]) -> None:
    """Logs the figures of every part, `stream_pair_text_ppl`, and of every modality over its parts, `ppl_text`."""
    outputs = [output[KEY] for output in logging_outputs if KEY in output]
    if not outputs:
        return
    metrics.log_scalar_sum(METER, sum(outputs).double().cpu())
    for modality in MODALITIES:
        columns = [column for column, part in enumerate(PARTS.values()) if part[1] == modality]
        for figure in ("ppl", "accuracy"):
            metrics.log_derived(
                f"{figure}_{modality}", partial(figure_of, METER, columns, FIGURES[figure]), PRIORITY_MODALITY
            )
    for column, name in enumerate(PARTS):
        for figure in FIGURES:
            metrics.log_derived(
                f"stream_{name}_{figure}", partial(figure_of, METER, [column], FIGURES[figure]), PRIORITY_PART
            )


def figure_of(meter: str, columns: Sequence[int], figure: Callable, meters: Dict) -> Optional[float]:
    """A figure of some parts together; None when the interval has no masked position of them."""
    sums = meters[meter].sum
    if not torch.is_tensor(sums):  # just reset
        return None
    nll, masked, correct = sums[:, columns].sum(1).tolist()
    return figure(nll, masked, correct) if masked else None


FIGURES = {
    "loss": lambda nll, masked, correct: bits_per_token(nll, masked, None),
    "ppl": lambda nll, masked, correct: perplexity(nll, masked, None),
    "accuracy": lambda nll, masked, correct: round(correct / masked, 4),
    "masked": lambda nll, masked, correct: int(masked),
}
