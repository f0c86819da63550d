"""A job whose ranks can be killed one by one: forked from a server that has imported everything, or under torchrun."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .. import forks
from . import launcher


class ForkedJob:
    """fairseq-train in forked ranks; each is a process of its own, only its imports were made before."""

    def __init__(self, words, processes, env):
        port = launcher.free_port()
        self.outputs = tempfile.TemporaryDirectory()
        self.ranks = []
        for rank in range(processes):
            settings = {**forks.QUIET, **launcher.torchrun_environment(rank, processes, port), **env}
            call = (forks.program, ("fairseq-train", [str(word) for word in words], None))
            output = str(Path(self.outputs.name, f"{rank}.txt"))
            self.ranks.append(forks.server().Process(target=forks.become, args=(call, settings, output)))
        for rank in self.ranks:
            rank.start()

    def running(self):
        """Whether all ranks are."""
        return all(rank.is_alive() for rank in self.ranks)

    def kill(self, rank=None):
        """SIGKILL to one rank, or to all."""
        for victim in self.ranks if rank is None else [self.ranks[rank]]:
            victim.kill()

    def wait(self, seconds):
        """Waits for the ranks to end -> number of those that did not."""
        end = time.monotonic() + seconds
        for rank in self.ranks:
            rank.join(max(end - time.monotonic(), 0))
        return sum(rank.is_alive() for rank in self.ranks)

    def statuses(self):
        """Exit statuses, None for a rank that runs."""
        return [rank.exitcode for rank in self.ranks]

    def describe(self):
        """Statuses and last lines of all ranks."""
        outputs = [Path(self.outputs.name, f"{rank}.txt").read_text() for rank in range(len(self.ranks))]
        return launcher.describe([launcher.Ended(*pair) for pair in zip(self.statuses(), outputs)])

    def end(self):
        """Ends what is left."""
        self.kill()
        self.wait(10)
        self.outputs.cleanup()


class TorchrunJob:
    """fairseq-train under torchrun, which ends the other ranks when one was killed."""

    def __init__(self, words, processes, env):
        program = [Path(sys.executable).with_name("fairseq-train"), *words]
        self.output = tempfile.TemporaryFile("w+")
        self.agent = launcher.start_torchrun(program, processes, env, stdout=self.output)

    def running(self):
        """Whether the job is."""
        return self.agent.poll() is None

    def kill(self, rank=None):
        """SIGKILL to one rank, or to the ranks and torchrun."""
        if rank is None:
            launcher.kill_group(self.agent)
            return
        for pid in launcher.children_of(self.agent.pid):
            if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)

    def wait(self, seconds):
        """Waits for the job to end -> 1 if it did not."""
        try:
            self.agent.wait(seconds)
        except subprocess.TimeoutExpired:
            return 1
        return 0

    def statuses(self):
        """[torchrun's exit status]."""
        return [self.agent.poll()]

    def describe(self):
        """The end of the output."""
        self.output.seek(0)
        return self.output.read()[-4000:]

    def end(self):
        """Ends what is left."""
        launcher.kill_group(self.agent)
        self.output.close()
