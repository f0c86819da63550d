"""Signals that ask a training to stop, noticed at once wherever its main thread is.

A handler in Python would wait until the main thread comes back from torch, perhaps from a collective in which another
rank hangs. So the handlers do nothing, and a thread reads from the pipe into which Python writes the number of every
signal that comes (signal.set_wakeup_fd).

Slurm and others send a signal to every process of a job, so also to those that load data: without them the rank could
not finish its update. They take no notice here.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time

from torch.utils.data._utils import signal_handling

from fairseq_mhmoe.integration.hooks import wrap

ONE_REQUEST = 5.0  # seconds: launchers pass on what also reached the rank itself
NONE = "none"
IMPOSSIBLE = ("SIGKILL", "SIGSTOP", "SIGCHLD")

logger = logging.getLogger(__name__)


def install():
    """Installs the hook of this file."""
    wrap(signal_handling, "_set_worker_signal_handlers", leave_it_to_the_rank)


def numbers_of(names):
    """Signal numbers of --stop-signals, "SIGTERM,SIGUSR1" or "none".

    Raises:
        ValueError: a name that is no signal's, or one that no program can notice.
    """
    if names == NONE:
        return ()
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in signal.Signals.__members__ or name in IMPOSSIBLE:
            raise ValueError(
                f"--stop-signals {names}: {name!r} is no signal that a program can wait for; expected names such as "
                "SIGTERM,SIGUSR1, or none"
            )
    return tuple(signal.Signals[name] for name in chosen)


class Requests:
    """Listens for signals that ask this process to stop, from its construction to the process's end.

    too_early: f(name of the signal), called when one ends the process before it is a rank; returns the exit status.
    asked: name of the signal that came first; None: none came.
    """

    listening = ()  # numbers, in this process and in those that it forks

    def __init__(self, numbers, too_early):
        self.too_early = too_early
        self.asked, self.since = None, None
        self.is_rank = False  # until then a signal ends this process, or goes to the ranks that it has started
        self.numbers = frozenset(numbers)
        self.pipe, wakeup = os.pipe()
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        if not Requests.listening:
            os.register_at_fork(after_in_child=forget)
        Requests.listening = tuple(numbers)
        for number in numbers:
            signal.signal(number, do_nothing)
            signal.siginterrupt(number, False)
        threading.Thread(target=self._run, name="stop signals", daemon=True).start()

    def _run(self):
        while True:
            for number in os.read(self.pipe, 64):
                if number in self.numbers:
                    self._notice(signal.Signals(number))

    def _notice(self, number):
        ranks = multiprocessing.active_children()
        if not self.is_rank and ranks:
            for rank in ranks:
                os.kill(rank.pid, number)
        elif not self.is_rank:
            self._end(number, "the training had not begun", self.too_early(number.name))
        elif self.asked is None:
            self.asked, self.since = number.name, time.monotonic()
            logger.warning(f"{number.name}: saving and ending after this update; a second signal ends it at once")
        elif time.monotonic() - self.since > ONE_REQUEST:
            self._end(number, "the second signal", 128 + number)

    def _end(self, number, reason, status):
        print(f"{number.name}: ending at once: {reason}", file=sys.stderr, flush=True)
        logging.shutdown()
        os._exit(status)


def do_nothing(number, frame):
    """The handler: the thread acts."""


def forget():
    """Gives a forked process the usual ends back; it may not write into its parent's pipe."""
    signal.set_wakeup_fd(-1)
    for number in Requests.listening:
        signal.signal(number, signal.SIG_DFL)


def leave_it_to_the_rank(original):
    """Sets the handlers of a process that loads data; where its rank listens, it ends when that says so only."""
    original()
    for number in Requests.listening:
        if number == signal.SIGTERM:
            signal.pthread_sigmask(signal.SIG_BLOCK, {number})
            threading.Thread(target=end_for_the_parent, daemon=True).start()
        else:
            signal.signal(number, signal.SIG_IGN)


def end_for_the_parent():
    """Ends this process when its parent sends SIGTERM, as torch does with workers that do not end by themselves."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
