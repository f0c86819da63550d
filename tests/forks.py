"""Programs and functions in forks of one process that has imported everything (preloaded.py).

A new process spends seconds on imports, a fork none; otherwise it is a process of its own. Programs as people start
them, with imports, are in tests/scripts, distributed/test_launch.py and cli/test_demo.py.
"""

import logging
import multiprocessing
import multiprocessing.forkserver
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUIET = {
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONPATH": str(ROOT),
}
PROGRAMS = {f"fairseq-{name}": f"fairseq_cli.{name.replace('-', '_')}" for name in (
    "train", "hydra-train", "eval-lm", "generate", "interactive", "validate"
)}  # fmt: skip


def server():
    """The context of multiprocessing whose processes are forks of one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    kept = {name: os.environ.get(name) for name in QUIET}
    os.environ.update(QUIET)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return context


def become(call, settings, output, source=os.devnull):
    """What a shell does before it starts a program; call = (function, arguments) is the program."""
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.dup2(os.open(source, os.O_RDONLY), 0)
    sys.stdin = open(0)
    os.environ.update(settings)
    folders = settings.get("PYTHONPATH", "").split(os.pathsep)
    sys.path += [folder for folder in folders if folder and folder not in sys.path]
    os.chdir(ROOT)
    multiprocessing.set_start_method("fork", force=True)  # a new program's, for its data workers; ours is "forkserver"
    function, arguments = call
    function(*arguments)


def program(name, words, before=None):
    """What "fairseq-train", ... or a module's main() does, after `before()`; called in a fork."""
    # as each program does it when it is the first to import fairseq
    form = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"
    logging.basicConfig(format=form, datefmt="%Y-%m-%d %H:%M:%S", level=logging.INFO, stream=sys.stdout, force=True)
    sys.argv = [name, *words]
    if before is not None:
        before()
    if name in PROGRAMS:
        import_module(PROGRAMS[name]).cli_main()
    else:
        import_module(name).main()


def run_program(name, words, stdin="", seconds=240, **environment):
    """A program of fairseq or a module's main() in a fork -> CompletedProcess; stderr comes within stdout."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "input.txt"), Path(folder, "output.txt")
        source.write_text(stdin)
        call = (program, (name, [str(word) for word in words]))
        fork = server().Process(target=become, args=(call, {**QUIET, **environment}, str(output), str(source)))
        try:
            fork.start()
            fork.join(seconds)
            if fork.exitcode is None:
                raise subprocess.TimeoutExpired([name, *words], seconds, output.read_text())
        finally:
            fork.kill()
            fork.join(10)
        return subprocess.CompletedProcess([name, *words], fork.exitcode, output.read_text())
