"""Programs that a command starts, in forks in place of new processes."""

import itertools
import os
import signal
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from fairseq_mhmoe.cli import demo_programs

from .. import forks


class ForkedProgram:
    """subprocess.Popen with forks in place of new processes; `kill_at`, if set, ends the one that writes it, once."""

    kill_at = None
    started = []
    lock = threading.Lock()
    numbers = itertools.count()

    def __init__(self, command, env, **options):
        words = list(map(str, command))
        name, words = (words[2], words[3:]) if words[1] == "-m" else (Path(words[0]).name, words[1:])
        pipe = self.folder / f"pipe{next(self.numbers)}"
        os.mkfifo(pipe)
        with self.lock:
            self.started.append(name)
            call = (forks.program, (name, words))
            settings = {**forks.QUIET, "OMP_NUM_THREADS": env["OMP_NUM_THREADS"]}
            self.process = forks.server().Process(target=forks.become, args=(call, settings, str(pipe)))
            self.process.start()
        self.stdout = self.watched(open(pipe, encoding="utf-8"))

    def watched(self, lines):
        for line in lines:
            if ForkedProgram.kill_at is not None and ForkedProgram.kill_at in line:
                ForkedProgram.kill_at = None
                self.process.kill()
            yield line

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.process.exitcode

    def terminate(self):
        self.process.terminate()


@contextmanager
def forked_programs(folder):
    """Within it, what `demo_programs.run` starts is a fork; folder: for pipes."""
    handler, stock = signal.getsignal(signal.SIGTERM), demo_programs.subprocess
    folder.mkdir(exist_ok=True)
    ForkedProgram.folder = folder
    ForkedProgram.started.clear()
    demo_programs.subprocess = SimpleNamespace(Popen=ForkedProgram, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT)
    try:
        yield ForkedProgram.started
    finally:
        demo_programs.subprocess = stock
        signal.signal(signal.SIGTERM, handler)
