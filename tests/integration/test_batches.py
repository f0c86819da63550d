"""No sample is left out of the batches, whatever --required-batch-size-multiple says."""

import numpy as np
import pytest
from fairseq.data import data_utils

import fairseq_mhmoe  # noqa: F401  (installs the hooks)


def batches(samples, lengths=None, **limits):
    lengths = np.full(samples, 10) if lengths is None else lengths
    return data_utils.batch_by_size(np.arange(samples), lambda i: lengths[i], num_tokens_vec=lengths, **limits)


@pytest.mark.parametrize("samples", [1, 7, 8, 12, 40, 41])
@pytest.mark.parametrize("size", [1, 3, 4, 8, 16])
@pytest.mark.parametrize("multiple", [1, 8])
def test_every_sample_is_in_one_batch_in_order(samples, size, multiple):
    made = batches(samples, max_sentences=size, required_batch_size_multiple=multiple)
    assert np.concatenate(made).tolist() == list(range(samples))
    assert all(len(batch) <= size for batch in made)


def test_the_multiple_still_shapes_all_batches_but_the_last():
    sizes = [len(batch) for batch in batches(45, max_sentences=20, required_batch_size_multiple=8)]
    assert sizes == [16, 16, 8, 5]


def test_the_limit_of_tokens_holds():
    lengths = np.arange(1, 31)
    made = batches(30, lengths, max_tokens=120, required_batch_size_multiple=8)
    assert np.concatenate(made).tolist() == list(range(30))
    assert all(len(batch) * lengths[batch].max() <= 120 for batch in made)
