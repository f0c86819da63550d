"""Batches of streams: own sizes, every record once a pass, the same for any number of processes and after a restart."""

from collections import Counter

import numpy as np
import pytest
from fairseq.data import FairseqDataset
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.data.mixture import Mixture
from fairseq_mhmoe.data.multimodal_streams import Batches, InOrder, Passes, Record, StreamsIterator, batches_per_epoch

streams_of = st.dictionaries(
    st.sampled_from(["image", "text", "pair"]), st.tuples(st.integers(1, 30), st.integers(1, 7)), min_size=1
)


def passes(lengths, seed=1):
    return {name: Passes(name, length, seed) for name, length in lengths.items()}


class Numbers(FairseqDataset):
    """A dataset whose samples are its records, and whose batches are lists of them."""

    def __init__(self, training=True):
        super().__init__()
        self.training = training

    def __getitem__(self, record):
        return record

    def collater(self, samples):
        return list(samples)


def iterator(lengths, sizes, training=True, **options):
    kind = Passes if training else InOrder
    streams = {name: kind(name, length, *([1] if training else [])) for name, length in lengths.items()}
    return StreamsIterator(Numbers(training), streams, sizes, **options)


@given(length=st.integers(1, 40), start=st.integers(0, 200), count=st.integers(0, 50), seed=st.integers(-3, 1 << 70))
def test_a_pass_has_every_record_once(length, start, count, seed):
    stream = Passes("pair", length, seed)
    taken = stream.take(0, start) + stream.take(start, count)
    assert taken == Passes("pair", length, seed).take(0, start + count), "the past matters"
    for visit in range((start + count) // length):
        part = taken[visit * length : (visit + 1) * length]
        assert {record.visit for record in part} == {visit}
        assert sorted(record.index for record in part) == list(range(length))


def test_passes_streams_and_seeds_have_orders_of_their_own():
    orders = [
        Passes(name, 50, seed).order(visit).tolist()
        for name in ("pair", "image")
        for seed in (1, 2)
        for visit in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 8
    assert Passes("pair", 50, 1).order(0).dtype == np.int32


def test_one_order_is_kept_and_no_more():
    stream = Passes("pair", 1000, 1)
    first = stream.order(0)
    assert stream.order(0) is first
    stream.take(995, 10)
    assert stream.order(1) is stream.order(1)
    assert stream._last[0] == 1


def test_a_mixture_lifts_small_sources():
    mixture = Mixture(["large", "small"], [90, 10], np.array([0.5, 0.5]), seed=1)
    stream = Passes("text", 100, 1, mixture)
    for visit in range(4):
        taken = [record.index for record in stream.take(visit * 100, 100)]
        assert sum(index >= 90 for index in taken) == 50
    counts = Counter(record.index for record in stream.take(0, 900))
    assert {counts[index] for index in range(90)} == {5}, "each of the large source's records 5 times in 9 passes"


@given(chosen=streams_of, epoch=st.integers(1, 5))
def test_batches_have_each_streams_number_of_rows(chosen, epoch):
    lengths, sizes = ({name: pair[part] for name, pair in chosen.items()} for part in (0, 1))
    streams = passes(lengths)
    count = batches_per_epoch(streams, sizes)
    assert count == max(-(-lengths[name] // sizes[name]) for name in lengths)
    batches = Batches(streams, sizes, range((epoch - 1) * count, epoch * count))
    seen = {name: [] for name in lengths}
    for batch in batches:
        assert Counter(record.stream for record in batch) == sizes
        for record in batch:
            seen[record.stream].append(record)
    for name, records in seen.items():
        assert records == streams[name].take((epoch - 1) * count * sizes[name], count * sizes[name])


@given(chosen=streams_of, ranks=st.integers(1, 5), offset=st.integers(0, 9))
def test_processes_share_the_batches_of_one(chosen, ranks, offset):
    lengths, sizes = ({name: pair[part] for name, pair in chosen.items()} for part in (0, 1))
    batches = Batches(passes(lengths), sizes, range(batches_per_epoch(passes(lengths), sizes)))
    shares = [batches.share(rank, ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    together = [share[place] for place in range(len(shares[0])) for share in shares]
    assert [batch for batch in together if batch] == list(batches)
    assert sum(not batch for batch in together) < ranks
    assert list(shares[-1][offset:]) == list(shares[-1])[offset:]


@given(chosen=streams_of)
def test_validation_reads_every_record_once(chosen):
    lengths, sizes = ({name: pair[part] for name, pair in chosen.items()} for part in (0, 1))
    epochs = iterator(lengths, sizes, training=False)
    expected = Counter(Record(name, 0, index) for name, length in lengths.items() for index in range(length))
    for _ in range(2):
        batches = list(epochs.next_epoch_itr(shuffle=False))
        assert all(batches), "a batch without records"
        assert Counter(record for batch in batches for record in batch) == expected


def test_epochs_differ_and_go_on_where_the_last_one_stopped():
    epochs = iterator({"image": 10, "pair": 4}, {"image": 3, "pair": 2})
    first, second = (list(epochs.next_epoch_itr()) for _ in range(2))
    assert len(first) == len(second) == 4
    images = [record.index for batch in first + second for record in batch if record.stream == "image"]
    assert sorted(images[:10]) == sorted(images[10:20]) == list(range(10))
    assert images[:10] != images[10:20]
    pairs = [record for batch in first + second for record in batch if record.stream == "pair"]
    assert Counter(record.index for record in pairs) == dict.fromkeys(range(4), 4)
    assert [record.visit for record in pairs] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("done", [0, 2, 5])
def test_a_restart_goes_on_with_the_next_batch(ranks, done):
    lengths, sizes = {"text": 37, "pair": 9}, {"text": 2, "pair": 3}

    def epochs(rank):
        return iterator(lengths, sizes, num_shards=ranks, shard_id=rank)

    for rank in range(ranks):
        whole, stopped, resumed = epochs(rank), epochs(rank), epochs(rank)
        list(whole.next_epoch_itr())
        expected = list(whole.next_epoch_itr())
        list(stopped.next_epoch_itr())
        running = stopped.next_epoch_itr()
        for _ in range(done):
            next(running)
        resumed.load_state_dict(stopped.state_dict())
        assert list(resumed.next_epoch_itr()) == expected[done:]
        assert list(resumed.next_epoch_itr()) == list(whole.next_epoch_itr()), "the epoch after it differs"


def test_batches_are_formed_when_they_are_asked_for():
    """No list of their numbers but the order of the pass, 4 bytes a record: 48 MB for 12 million pairs."""
    streams = {"pair": Passes("pair", 2_000_000, 1), "image": InOrder("image", 10)}
    batches = Batches(streams, {"pair": 512, "image": 1}, range(3907))
    assert streams["pair"]._last is None
    assert len(batches.share(0, 2)) == len(batches.share(1, 2)) == 1954
    assert len(batches[3000]) == 512
    assert streams["pair"]._last[1].nbytes == 8_000_000


def test_a_place_outside_is_refused():
    batches = Batches(passes({"pair": 4}), {"pair": 2}, range(2), missing=1)
    assert len(batches) == 3 and batches[2] == []
    with pytest.raises(IndexError, match="batch 3 of 3"):
        batches[3]
    with pytest.raises(ValueError, match="from a place to the end"):
        batches[0:1]
