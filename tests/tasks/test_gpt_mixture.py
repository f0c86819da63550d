"""Task gpt draws sources by weight or p^alpha: the shares, and a restart anywhere."""

from collections import Counter

import pytest
import torch

EOS = 2


def documents(first, count):
    # a token pair that no other document of the source has, so that every sample differs
    return [[first + number % 10, first + number // 10, EOS] for number in range(count)]


# samples of 6 tokens: 40, 10 and 5
SOURCES = {
    "en": {"train": [documents(5, 80)]},
    "de": {"train": [documents(20, 20)]},
    "fr": {"train": [documents(35, 10)]},
}
LENGTHS = [40, 10, 5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_sources):
    return write_sources(tmp_path_factory.mktemp("mixture") / "data", **SOURCES)


@pytest.fixture
def iterate(make_task):
    """iterate(folder, epoch=1, iterator={...}, **fields): the task's iterator over the training data."""

    def run(folder, epoch=1, iterator=None, **fields):
        task = make_task(folder, **{"tokens_per_sample": 6, **fields})
        task.load_dataset("train", epoch=epoch, combine=True)
        return task.get_batch_iterator(task.dataset("train"), max_sentences=4, epoch=epoch, **(iterator or {}))

    return run


def per_source(batches):
    return Counter(number for batch in batches for number in batch["source"].tolist())


def rows(batches):
    return [batch["id"].tolist() for batch in batches]


def test_weights_decide_the_shares(iterate, folder):
    epoch = iterate(folder, source_weights="en=2,de=1,fr=2").next_epoch_itr()
    assert per_source(epoch) == {0: 22, 1: 11, 2: 22}


def test_alpha_decides_the_shares(iterate, folder):
    # 8^0.5 : 2^0.5 : 1 of 55
    assert per_source(iterate(folder, sampling_alpha=0.5).next_epoch_itr()) == {0: 30, 1: 15, 2: 10}


def test_the_manifests_weights_count_unless_options_do(iterate, tmp_path, write_sources, caplog):
    folder = write_sources(tmp_path / "data", weights={"en": 2, "de": 1, "fr": 2}, **SOURCES)
    assert per_source(iterate(folder).next_epoch_itr()) == {0: 22, 1: 11, 2: 22}
    assert per_source(iterate(folder, source_weights="en=1,de=1,fr=3").next_epoch_itr()) == {0: 11, 1: 11, 2: 33}
    assert per_source(iterate(folder, sampling_alpha=0.5).next_epoch_itr()) == {0: 30, 1: 15, 2: 10}
    assert "--sampling-alpha takes the place of the weights" in caplog.text


def test_a_source_goes_on_in_the_next_epoch_where_it_stopped(iterate, folder):
    iterator = iterate(folder, source_weights="en=1,de=1,fr=1")
    seen = Counter()
    for epoch in range(1, 6):
        for batch in iterator.next_epoch_itr():
            seen.update(batch["id"].tolist())
        assert iterator.epoch == epoch
        for start, length in zip((0, 40, 50), LENGTHS, strict=True):
            counts = [seen[number] for number in range(start, start + length)]
            assert max(counts) - min(counts) <= 1
    assert sum(seen.values()) == 5 * 55


def test_other_splits_take_every_sample_once(make_task, folder):
    task = make_task(folder, tokens_per_sample=6, sampling_alpha=0.3)
    task.load_dataset("fr/train")
    batches = task.get_batch_iterator(task.dataset("fr/train"), max_sentences=4).next_epoch_itr()
    assert sorted(number for batch in batches for number in batch["id"].tolist()) == list(range(5))


def test_seeds_decide_the_order(iterate, folder):
    orders = [rows(iterate(folder, sampling_alpha=0.3, seed=seed).next_epoch_itr()) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("epoch, done, workers", [(1, 5, 0), (3, 0, 0), (2, 5, 2)])
def test_a_restart_goes_on_with_the_next_batch(iterate, folder, epoch, done, workers):
    options = dict(sampling_alpha=0.3, iterator=dict(num_workers=workers))
    straight = iterate(folder, **options)
    for _ in range(epoch - 1):
        list(straight.next_epoch_itr())
    current = straight.next_epoch_itr()
    for _ in range(done):
        next(current)
    state = straight.state_dict()
    rest = [(batch["id"], batch["target"]) for batch in current]

    resumed = iterate(folder, epoch=state["epoch"], **options)
    resumed.load_state_dict(state)
    again = [(batch["id"], batch["target"]) for batch in resumed.next_epoch_itr()]
    assert len(again) == len(rest) > 0
    assert all(torch.equal(a, b) for pair in zip(again, rest, strict=True) for a, b in zip(*pair, strict=True))
    assert rows(straight.next_epoch_itr()) == rows(resumed.next_epoch_itr())


def test_an_iterator_of_another_epoch_can_be_sent_there(iterate, folder):
    straight = iterate(folder, sampling_alpha=0.3)
    list(straight.next_epoch_itr())
    state = {"version": 2, "epoch": 2, "iterations_in_epoch": 3, "shuffle": True}
    sent = iterate(folder, sampling_alpha=0.3)
    assert len(sent.first_batch["id"]) == 4  # as the trainer does before it loads the position
    sent.load_state_dict(state)
    assert rows(sent.next_epoch_itr()) == rows(straight.next_epoch_itr())[3:]


def test_processes_share_an_epoch(iterate, folder):
    whole = rows(iterate(folder, sampling_alpha=0.3).next_epoch_itr())
    for count in (2, 3):
        parts = [
            list(iterate(folder, sampling_alpha=0.3, iterator=dict(num_shards=count, shard_id=shard)).next_epoch_itr())
            for shard in range(count)
        ]
        together = [part[turn] for turn in range(len(parts[0])) for part in parts if part[turn]]
        assert rows(together) == whole


def test_folders_in_turn_go_on_where_they_stopped(make_task, tmp_path, write_sources):
    paths = [write_sources(tmp_path / name, **SOURCES) for name in "ab"]
    task = make_task(":".join(map(str, paths)), tokens_per_sample=6, source_weights="en=1,de=1,fr=1")
    seen = Counter()
    for epoch in (1, 3):  # the first folder's first and second time
        task.load_dataset("train", epoch=epoch, combine=True)
        iterator = task.get_batch_iterator(
            task.dataset("train"), max_sentences=4, epoch=epoch, disable_iterator_cache=True
        )
        seen.update(number for batch in iterator.next_epoch_itr() for number in batch["id"].tolist())
    english = [seen[number] for number in range(40)]
    assert sum(english) in (36, 38) and max(english) == 1
