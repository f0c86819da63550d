"""Negative log-likelihood of each document, over the same blocks as fairseq-eval-lm.

B batch (blocks), T block length, V vocabulary, M documents, N experts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fairseq import utils
from fairseq.data import data_utils
from torch import Tensor


@dataclass(frozen=True)
class SplitScores:
    """What one pass over a split gives."""

    nll: np.ndarray  # [M] nats, summed over the tokens of each document
    tokens: np.ndarray  # [M] scored tokens of each document, its end included
    layer_stats: list[Tensor]  # per MoE layer [N + 3], summed over the split; empty for a dense model


def sum_by_document(token_nll: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Sums [M] of consecutive runs of token_nll; document m has sizes[m] tokens.

    Raises ValueError when the sizes do not add up to the number of tokens, or a document is empty.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    if sizes.sum() != len(token_nll) or (sizes < 1).any():
        raise ValueError(
            f"{len(sizes)} documents of {sizes.sum()} tokens together, but {len(token_nll)} tokens were scored; "
            "score the whole split with --sample-break-mode none or eos and without skipping long samples"
        )
    starts = np.cumsum(sizes) - sizes
    return np.add.reduceat(token_nll, starts)


def document_sizes(dataset, folder: Path, split: str, dictionary) -> np.ndarray:
    """Tokens [M] of each document of a split, its end included.

    Args:
        dataset: of task gpt, which knows its documents, or another one made of the files folder / split.
    Raises:
        ValueError: there are no such files.
    """
    if hasattr(dataset, "blocks"):
        return np.concatenate([blocks.document_sizes() for blocks in dataset.blocks])
    dataset = data_utils.load_indexed_dataset(str(folder / split), dictionary)
    if dataset is None:
        raise ValueError(f"no split '{split}' in {folder}; expected {split}.bin and {split}.idx")
    return np.array(dataset.sizes)  # a copy: fairseq unmaps the file together with the dataset


def join(scores: Iterable[SplitScores]) -> SplitScores:
    """The scores of several sources as those of one split, their documents one after the other."""
    scores = list(scores)
    return SplitScores(
        np.concatenate([part.nll for part in scores]),
        np.concatenate([part.tokens for part in scores]),
        [torch.stack(stats).sum(0) for stats in zip(*(part.layer_stats for part in scores), strict=True)],
    )


@torch.no_grad()
def score_split(model, dataset, batches, sizes: np.ndarray) -> SplitScores:
    """Score every token once and add up by document.

    Args:
        model: fairseq language model in evaluation mode.
        dataset: the fairseq dataset of the split; its sizes say where each block begins.
        batches: its batches, as task.eval_lm_dataloader gives them.
        sizes: [M] tokens of each document.
    """
    block_ends = np.cumsum(dataset.sizes)
    token_nll = np.full(int(block_ends[-1]), np.nan)
    layer_stats: list[Tensor] = []
    device = next(model.parameters()).device
    for sample in batches:
        sample = utils.move_to_cuda(sample, device) if device.type == "cuda" else sample
        output = model(**sample["net_input"])
        target = sample["target"]
        log_probs = model.get_normalized_probs(output, log_probs=True, sample=sample).float()
        nll = -log_probs.gather(-1, target.unsqueeze(-1)).squeeze(-1).cpu().double().numpy()
        for row, block in enumerate(sample["id"].tolist()):
            size = int(dataset.sizes[block])
            token_nll[block_ends[block] - size : block_ends[block]] = nll[row, :size]
        for layer, stats in enumerate(output[1].get("moe_stats", [])):
            if layer == len(layer_stats):
                layer_stats.append(torch.zeros_like(stats, dtype=torch.float64))
            layer_stats[layer] += stats
    if np.isnan(token_nll).any():
        raise ValueError(
            f"{int(np.isnan(token_nll).sum())} of {token_nll.size} tokens have no score; the model gives NaN, or the "
            "batches leave blocks out: use the tokens-per-sample of the training and no shards"
        )
    return SplitScores(sum_by_document(token_nll, sizes), np.asarray(sizes), layer_stats)
