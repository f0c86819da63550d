"""Which tokens of a text are to be predicted, and what stands in their place: BERT's masking.

T tokens of a text with its special symbols, M masked ones.
"""

import numpy as np

# of the chosen tokens 80 % become the mask, 10 % another symbol, 10 % stay
SHARE_MASKED = 0.8
SHARE_RANDOM = 0.1


def masked_tokens(real: int, ratio: float) -> int:
    """How many of a text's `real` tokens are chosen: ratio * real, rounded; at least one unless there is none."""
    return min(real, max(1, round(ratio * real))) if ratio > 0 else 0


def mask_text(
    generator: np.random.Generator, tokens: np.ndarray, ratio: float, symbols: tuple[int, int], mask: int
) -> tuple[np.ndarray, np.ndarray]:
    """The text with masks, [T] int64, and the chosen positions in rising order, [M] int64.

    The number of chosen tokens is exact, not Bernoulli: a short caption never goes without a target, and batches of
    equal texts have equal numbers. Special symbols (ends of documents, unknown) and pads are never chosen.

    Args:
        tokens: [T] int64; stays as it is.
        symbols: first number of the dictionary's real symbols, and the one after the last; random ones come from there.
        mask: number of the mask symbol.
    """
    first, end = symbols
    real = np.flatnonzero((tokens >= first) & (tokens < end))
    chosen = np.sort(generator.permutation(real)[: masked_tokens(len(real), ratio)])
    fate = generator.random(len(chosen))
    others = generator.integers(first, end, size=len(chosen))
    result = tokens.copy()
    result[chosen[fate < SHARE_MASKED]] = mask
    replaced = (fate >= SHARE_MASKED) & (fate < SHARE_MASKED + SHARE_RANDOM)
    result[chosen[replaced]] = others[replaced]
    return result, chosen
