"""The thread with which a rank notices that another one has failed: it looks into the job's store once a second."""

import json
import logging
import os
import sys
import threading
import time
from datetime import timedelta
from urllib.parse import urlparse

import torch.distributed as dist

PERIOD = 1.0  # seconds between two looks into the store
LAST_WORD = 3.0  # seconds that a rank waits at its end for the others to look
LINGER = 3.0  # seconds that the rank which failed has to end before the others
FAILED, READ, ENDED = "failed", "read", "ended"

logger = logging.getLogger(__name__)


class Watch:
    """Watches the other ranks of this job from its construction to `end`, `report` or `leave`.

    store: a connection that nobody else uses; None: nothing can be noticed.
    """

    def __init__(self, rank, world_size, store):
        self.rank, self.world_size, self.store = rank, world_size, store
        self.stopping = threading.Event()
        self.speaking = threading.Lock()  # one message per rank
        self.thread = threading.Thread(target=self._run, name="watch of the other ranks", daemon=True)
        if store is not None:
            self.thread.start()

    def _run(self):
        others_ended = False
        while not self.stopping.wait(PERIOD):
            try:
                reason = self._reason()
                others_ended = others_ended or self.store.check([ENDED])
            except RuntimeError as error:  # torch's errors of the store
                if others_ended or self.stopping.is_set():
                    return
                text = (str(error).splitlines() or [""])[0]
                reason = f"lost contact to the job's store, so rank 0 or the launcher is gone ({text})"
            if reason is not None:
                self.leave(reason)

    def _reason(self):
        """Why this rank has to end; None when nobody else has failed. Raises RuntimeError when the store is gone."""
        if not self.store.check([FAILED]):
            return None
        failure = json.loads(self.store.get(FAILED))
        if failure["rank"] == self.rank:
            return None
        return f"ending, because rank {failure['rank']} failed: {failure['message']}"

    def reason(self, seconds):
        """The same, waiting up to so many seconds for somebody to tell; None when nobody can."""
        end = time.monotonic() + seconds
        while self.store is not None:
            try:
                reason = self._reason()
            except RuntimeError:
                return None
            if reason is not None or time.monotonic() >= end:
                return reason
            time.sleep(0.1)
        return None

    def report(self, message):
        """Tells the others that this rank has failed, unless one did before; the caller goes on to end it."""
        self._speak()
        self._tell(message)

    def leave(self, message, tell=False):
        """Ends this process, wherever its main thread is, with a line on standard error and status 1.

        Args:
            tell: this rank is the first to know; otherwise the one that failed is left to end first, because a
                launcher names the first process that ends, and ends the others at once.
        """
        self._speak()
        sys.stdout.flush()
        print(f"rank {self.rank}: {message}", file=sys.stderr, flush=True)
        logging.shutdown()
        if tell:
            self._tell(message)
        else:
            self.acknowledge()
            time.sleep(LINGER)
        os._exit(1)

    def acknowledge(self):
        """Lets the rank that failed go on to its end."""
        try:
            self.store.add(READ, 1)
        except RuntimeError:
            logger.debug("the job's store is gone: its keeper has ended before")

    def _speak(self):
        """Goes on for one thread only; the process ends under the other one, which waits."""
        if not self.speaking.acquire(blocking=False):
            threading.Event().wait()

    def _tell(self, message):
        self._stop()
        failure = json.dumps({"rank": self.rank, "message": message})
        try:
            if self.store is not None and self.store.compare_set(FAILED, "", failure).decode() == failure:
                # a launcher that sees this process end kills the others, and rank 0 may take the store with it
                self._wait_for(READ, self.world_size - 1)
        except RuntimeError:
            logger.debug("the job's store is gone: the other ranks see it for themselves")

    def end(self):
        """Says that this rank has done its work; what happens to the others is then no failure."""
        self._stop()
        try:
            if self.store is not None:
                self.store.add(ENDED, 1)
                if self.rank == 0:  # it may keep the store, which the others still use
                    self._wait_for(ENDED, self.world_size)
        except RuntimeError:
            logger.debug("the job's store is gone: its keeper has ended before")

    def _stop(self):
        self.stopping.set()
        if self.thread.is_alive() and self.thread is not threading.current_thread():
            self.thread.join(PERIOD)

    def _wait_for(self, key, count):
        """Waits until so many ranks have said so, or seconds have passed."""
        end = time.monotonic() + LAST_WORD
        while time.monotonic() < end and self.store.add(key, 0) < count:
            time.sleep(0.02)


def connect(init_method, start):
    """A connection of its own to the job's store; None when the ranks meet in a file.

    start: a word for this start of the ranks; torchrun keeps one store over its restarts, and does not count those
        after which there are other nodes.
    """
    if init_method == "env://":
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    else:
        address = urlparse(init_method)
        if address.scheme != "tcp":
            logger.warning(f"the ranks meet at {init_method}: a rank that fails is noticed only at the time-out")
            return None
        host, port = address.hostname, address.port
    store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=30))
    return dist.PrefixStore(f"fairseq_mhmoe/{start}", store)
