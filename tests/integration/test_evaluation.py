"""What a process needs to take part in an evaluation; whole evaluations are in tests/distributed."""

import types

import numpy as np
import pytest
import torch
from fairseq.data import LMContextWindowDataset

from fairseq_mhmoe.integration import evaluation

PAD = 1


class Samples(list):
    def num_tokens(self, index):
        return len(self[index]["source"])

    def collater(self, samples):
        if not samples:
            return {}
        tokens = torch.nn.utils.rnn.pad_sequence([s["source"] for s in samples], True, PAD)
        lengths = torch.tensor([len(s["source"]) for s in samples])
        return {"net_input": {"src_tokens": tokens, "src_lengths": lengths}, "target": tokens + 50 * tokens.ne(PAD)}


def windows(context):
    numbers = [[11, 12, 13], [14], [15, 16], [17, 18, 19]]
    samples = Samples({"id": i, "source": torch.tensor(tokens)} for i, tokens in enumerate(numbers))
    return LMContextWindowDataset(samples, tokens_per_sample=3, context_window=context, pad_idx=PAD)


@pytest.mark.parametrize("context, before", [(2, [15, 16]), (4, [13, 14, 15, 16]), (9, [11, 12, 13, 14, 15, 16])])
def test_a_batch_s_context_is_what_stands_before_it_in_the_text(context, before):
    dataset = windows(context)
    sample = dataset.collater([dataset[3]])  # as a rank that has seen no other batch
    tokens = sample["net_input"]["src_tokens"][0]
    assert tokens[tokens.ne(PAD)].tolist() == [*before, 17, 18, 19]
    assert sample["start_indices"] == [len(before)]


def test_batches_in_turn_get_what_one_process_gives_them():
    dataset = windows(2)
    batches = [dataset.collater([dataset[i], dataset[i + 1]])["net_input"]["src_tokens"].tolist() for i in (0, 2)]
    assert batches == [
        [[11, 12, 13, PAD, PAD], [12, 13, 14, PAD, PAD]],
        [[13, 14, 15, 16, PAD], [15, 16, 17, 18, 19]],
    ]


def test_a_source_s_context_does_not_reach_into_the_source_before_it():
    dataset = windows(9)
    dataset.dataset.ends = [2, 4]
    batches = dataset.batch_by_size(np.arange(4), max_sentences=3)
    assert [batch.tolist() for batch in batches] == [[0, 1], [2], [3]]
    assert [evaluation.tokens_before(dataset, index).tolist() for index in range(4)] == [
        [], [11, 12, 13], [], [15, 16]
    ]  # fmt: skip


def test_a_share_without_samples_is_an_empty_batch():
    assert windows(2).collater([]) == {}


def test_one_process_evaluates_as_fairseq_does():
    cfg = types.SimpleNamespace()
    assert evaluation.EvaluateTogether(lambda cfg: cfg)(cfg) is cfg
    assert evaluation.eval_lm(lambda **arguments: arguments, models=[]) == {"models": []}
