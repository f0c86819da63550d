"""What ranks tell each other through the store; processes that end are in tests/distributed/test_failures.py."""

import datetime
import threading
import time

import pytest
import torch.distributed as dist

from fairseq_mhmoe.integration import watch
from fairseq_mhmoe.integration.watch import Watch, connect


@pytest.fixture
def stores(monkeypatch):
    """Two connections to one store."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=datetime.timedelta(seconds=5))
    yield [connect(f"tcp://127.0.0.1:{server.port}", "start") for _ in range(2)]


@pytest.fixture
def left(monkeypatch):
    """What a watch said when it ended the process, which is not ended here."""
    said = []
    monkeypatch.setattr(Watch, "leave", lambda self, message: (said.append(message), self._stop()))
    return said


def test_a_failure_reaches_the_other_rank(stores, left, monkeypatch):
    monkeypatch.setattr(watch, "PERIOD", 0.05)
    first, second = (Watch(rank, 2, store) for rank, store in enumerate(stores))
    first.report("layer: broken")
    second.thread.join(5)
    assert left == ["ending, because rank 0 failed: layer: broken"]


def test_the_first_of_two_failures_counts(stores):
    watches = [Watch(rank, 2, store) for rank, store in enumerate(stores)]
    reporting = threading.Thread(target=watches[0].report, args=("the cause",))
    reporting.start()
    time.sleep(0.2)
    assert watches[1].reason(5) == "ending, because rank 0 failed: the cause"
    watches[1].report("a consequence")
    reporting.join(5)
    assert not reporting.is_alive()
    assert watches[0].reason(0) is None


def test_a_normal_end_is_no_failure(stores, left, monkeypatch):
    monkeypatch.setattr(watch, "PERIOD", 0.05)
    first, second = (Watch(rank, 2, store) for rank, store in enumerate(stores))
    ending = threading.Thread(target=first.end)
    ending.start()
    time.sleep(0.2)
    second.end()
    ending.join(1)
    assert not ending.is_alive() and not first.thread.is_alive() and not second.thread.is_alive()
    assert left == []


def test_a_store_that_is_gone_is_reported(left, monkeypatch):
    monkeypatch.setattr(watch, "PERIOD", 0.05)
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=datetime.timedelta(seconds=5))
    other = Watch(1, 2, connect(f"tcp://127.0.0.1:{server.port}", "start"))
    del server
    other.thread.join(5)
    [message] = left
    assert message.startswith("lost contact to the job's store, so rank 0 or the launcher is gone")


def test_ranks_that_meet_in_a_file_have_no_store_to_watch():
    assert connect("file:///somewhere", "start") is None
    Watch(0, 2, None).report("nobody can know")
