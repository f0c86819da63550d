"""Batches of task gpt: no token lost, the same order again, exact resume."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

PAD, EOS = 1, 2
DOCUMENTS = st.lists(
    st.lists(st.integers(4, 49), max_size=30).map(lambda tokens: [*tokens, EOS]), min_size=1, max_size=12
)


def iterator(task, split="train", batch_size=3, **kwargs):
    return task.get_batch_iterator(task.dataset(split), max_sentences=batch_size, **kwargs)


def by_number(batches):
    """Sample number -> (source, target) without pads; a number must not come twice."""
    samples = {}
    for batch in batches:
        for number, source, target in zip(batch["id"], batch["net_input"]["src_tokens"], batch["target"], strict=True):
            assert int(number) not in samples
            samples[int(number)] = source[source != PAD].tolist(), target[target != PAD].tolist()
    return samples


def numbers(batches):
    return [batch["id"].tolist() for batch in batches]


@settings(max_examples=25)
@given(documents=DOCUMENTS, block=st.integers(1, 40), batch_size=st.integers(1, 9))
def test_every_token_is_a_target_once(make_task, write_folder, tmp_path_factory, documents, block, batch_size):
    folder = write_folder(tmp_path_factory.mktemp("folder"), train=documents)
    task = make_task(folder, tokens_per_sample=block)
    task.load_dataset("train")
    for epoch_iterator in (iterator(task, batch_size=batch_size), iterator(task, batch_size=batch_size)):
        samples = by_number(epoch_iterator.next_epoch_itr())
        tokens = list(itertools.chain(*documents))
        assert list(itertools.chain(*(samples[number][1] for number in sorted(samples)))) == tokens
        for source, target in samples.values():
            assert len(source) == len(target) <= block and source[1:] == target[:-1]
        # the model sees the token before the block, and eos before the first one
        starts = [samples[number][0][0] for number in sorted(samples)]
        assert starts == [EOS if position == 0 else tokens[position - 1] for position in range(0, len(tokens), block)]


@settings(max_examples=15)
@given(documents=DOCUMENTS, context=st.integers(1, 8), block=st.integers(1, 12))
def test_a_context_window_scores_every_token_once(make_task, write_folder, tmp_path_factory, documents, context, block):
    folder = write_folder(tmp_path_factory.mktemp("folder"), test=documents)
    task = make_task(folder, tokens_per_sample=block)
    task.load_dataset("test")
    batches = task.eval_lm_dataloader(
        task.dataset("test"), max_positions=64, batch_size=3, context_window=context, num_workers=0
    )
    scored = []
    for batch in batches:
        for target, start in zip(batch["target"], batch["start_indices"], strict=True):
            scored += target[start:][target[start:] != PAD].tolist()
            assert target[:start].eq(PAD).all()
    assert scored == list(itertools.chain(*documents))


@pytest.fixture
def folder(tmp_path, write_folder):
    return write_folder(tmp_path / "data", train=[[*range(4, 4 + n % 40), EOS] for n in range(60)])


def test_the_same_seed_gives_the_same_batches(make_task, folder):
    orders = []
    for seed in (1, 1, 2):
        task = make_task(folder, tokens_per_sample=8)
        task.load_dataset("train")
        orders.append(numbers(iterator(task, seed=seed).next_epoch_itr()))
    assert orders[0] == orders[1] != orders[2]


def test_epochs_differ_in_order(make_task, folder):
    task = make_task(folder, tokens_per_sample=8)
    task.load_dataset("train")
    batches = iterator(task)
    first, second = numbers(batches.next_epoch_itr()), numbers(batches.next_epoch_itr())
    assert first != second and sorted(first) == sorted(second)


@pytest.mark.parametrize(
    "epoch, done, read_ahead, workers", [(1, 1, 0, 0), (1, 7, 3, 0), (2, 5, 0, 0), (3, 0, 3, 0), (2, 6, 3, 2)]
)
def test_a_restart_goes_on_with_the_next_batch(make_task, folder, epoch, done, read_ahead, workers):
    def start():
        task = make_task(folder, tokens_per_sample=8, batch_read_ahead=read_ahead)
        task.load_dataset("train")
        return task

    task = start()
    straight = iterator(task, num_workers=workers)
    for _ in range(epoch - 1):
        list(straight.next_epoch_itr())
        # what the trainer does between epochs; it gets the same iterator back
        assert iterator(task, epoch=straight.next_epoch_idx) is straight
    current = straight.next_epoch_itr()
    for _ in range(done):
        next(current)
    state = straight.state_dict()
    rest = [batch["net_input"]["src_tokens"] for batch in current]

    resumed = iterator(start(), epoch=state["epoch"], num_workers=workers)
    resumed.load_state_dict(state)
    again = [batch["net_input"]["src_tokens"] for batch in resumed.next_epoch_itr()]
    assert resumed.epoch == epoch and len(again) == len(rest) > 0
    assert all(torch.equal(a, b) for a, b in zip(again, rest, strict=True))
    assert numbers(straight.next_epoch_itr()) == numbers(resumed.next_epoch_itr())


def test_shards_split_the_batches_among_processes(make_task, folder):
    task = make_task(folder, tokens_per_sample=8)
    task.load_dataset("train")
    parts = [
        list(iterator(task, num_shards=2, shard_id=shard, disable_iterator_cache=True).next_epoch_itr())
        for shard in (0, 1)
    ]
    parts[1] = [batch for batch in parts[1] if batch]  # fairseq fills up with empty batches
    assert len(by_number([*parts[0], *parts[1]])) == len(task.dataset("train"))
