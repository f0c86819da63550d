"""Keeps the last batch, which fairseq 0.12.3.1 throws away.

With --required-batch-size-multiple N (8 by default) batch_by_size drops the last batch unless its size is a multiple of
N: up to N - 1 samples of every data set, and with a --batch-size below N a whole batch, even in validation and
generation. The option's own text allows "less than N or a multiple of N", so the rest becomes a last, smaller batch.
"""

from fairseq.data import data_utils

from fairseq_mhmoe.integration.hooks import wrap


def install():
    """Installs the hook of this file."""
    wrap(data_utils, "batch_by_size", batch_by_size)


def batch_by_size(original, indices, *args, **kwargs):
    """Batches of sample numbers in the order given, which together hold every one of them."""
    batches = original(indices, *args, **kwargs)
    batched = sum(len(batch) for batch in batches)
    if batched < len(indices) and kwargs.get("fixed_shapes") is None:
        batches = [*batches, indices[batched:]]
    return batches
