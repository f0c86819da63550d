"""Log-likelihoods of windows of tokens, in batches of equal windows and similar lengths.

B batch, T length, D width, V vocabulary, P predicted positions of a batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from fairseq import utils
from torch import Tensor

from fairseq_mhmoe.evaluation.harness_tokens import Window
from fairseq_mhmoe.evaluation.loading import Loaded

# without a batch size: as many rows as make so many positions, pads included
POSITIONS = 8192
# logits that are held at once, V of them for a position
LOGITS = 1 << 25


@dataclass(frozen=True)
class Row:
    """An input, and the windows (by number) that show it to the model."""

    inputs: tuple[int, ...]
    windows: tuple[int, ...]


def rows_meet(loaded: Loaded) -> bool:
    """Whether a row's result may depend on the rows beside it: experts have a capacity, or chance has a say."""
    configs = [layer.config for _, layer in loaded.moe_layers()]
    return any(c.capacity_factor > 0 or c.eval_capacity_fraction > 0 or c.sample_in_eval for c in configs)


def make_batches(lengths: Sequence[int], batch_size: int | None) -> list[list[int]]:
    """Numbers of the rows of each batch, the longest rows first; batch_size rows, or POSITIONS positions, at most."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        most = batch_size or max(1, POSITIONS // lengths[batches[-1][0]] if batches else 0)
        if not batches or len(batches[-1]) >= most:
            batches.append([])
        batches[-1].append(row)
    return batches


def plan(windows: Sequence[Window], batch_size: int | None) -> list[list[Row]]:
    """Batches of rows; windows of the same input, such as choices of one token, share a row."""
    numbers: dict[tuple[int, ...], list[int]] = {}
    for number, window in enumerate(windows):
        numbers.setdefault(window.inputs, []).append(number)
    rows = [Row(inputs, tuple(found)) for inputs, found in numbers.items()]
    return [[rows[i] for i in batch] for batch in make_batches([len(row.inputs) for row in rows], batch_size)]


@torch.inference_mode()
def score_batch(loaded: Loaded, rows: Sequence[Row], windows: Sequence[Window]) -> dict[int, tuple[float, bool]]:
    """Score the windows of one batch.

    Returns:
        {number of a window: (log-probability of its targets, nats; whether each of them is the most probable token)}.
    Raises:
        ValueError: the model gives NaN.
    """
    tokens = pad_right([row.inputs for row in rows], loaded.dictionary.pad()).to(loaded.device)
    features, _ = loaded.model(tokens, features_only=True)
    places = [
        (line, len(row.inputs) - len(windows[number].targets) + i, target, number)
        for line, row in enumerate(rows)
        for number in row.windows
        for i, target in enumerate(windows[number].targets)
    ]
    lines, positions, targets, numbers = torch.tensor(places).unbind(1)
    log_probs, greedy = score_positions(loaded, features[lines, positions], targets)
    if log_probs.isnan().any():
        raise ValueError(f"{loaded.path} gives NaN for {rows[0].inputs[:10]}...; the checkpoint is of no use")
    result = {number: (0.0, True) for row in rows for number in row.windows}
    for number, log_prob, is_greedy in zip(numbers.tolist(), log_probs.tolist(), greedy.tolist(), strict=True):
        total, all_greedy = result[number]
        result[number] = total + log_prob, all_greedy and is_greedy
    return result


def score_positions(loaded: Loaded, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Features [P, D] and targets [P] -> log-probabilities [P] float64 and whether each target is the best [P]."""
    decoder = loaded.model.decoder
    vocabulary = decoder.output_weight.shape[0]
    # as the task maps targets that a smaller output dictionary lacks
    targets = targets.where(targets < vocabulary, loaded.dictionary.unk()).to(features.device)
    found = []
    for part, wanted in zip(*(x.split(max(1, LOGITS // vocabulary)) for x in (features, targets)), strict=True):
        log_probs = utils.log_softmax(decoder.output_layer(part), dim=-1)
        chosen = log_probs.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        found.append((chosen.double().cpu(), log_probs.argmax(-1).eq(wanted).cpu()))
    return torch.cat([log_probs for log_probs, _ in found]), torch.cat([greedy for _, greedy in found])


def pad_right(rows: Iterable[Sequence[int]], pad: int) -> Tensor:
    """Rows of tokens -> [B, T] int64."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)
