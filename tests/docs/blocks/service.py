"""Runs the programs of a block in forks of a process that has imported everything: 0.1 s a program, not 6 s of imports.

The service is itself a fork of forks.py's server. For each client (client.py) it forks a keeper, which forks the
program with the client's streams, folder, environment and words, hands signals on, and tells how it ended.
"""

import atexit
import gc
import json
import logging
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from importlib import import_module
from pathlib import Path

# beside what tests/preloaded.py has: what programs of ours import when they start
MODULES = """
    data_prep.__main__ data_prep.pipeline data_prep.images.__main__ data_prep.images.pipeline data_prep.vqa
    data_prep.nlvr2 data_prep.coco_captions data_prep.zero_shot data_prep.demo_english datatrove.executor
    fairseq_mhmoe.cli.analyze_activation fairseq_mhmoe.cli.analyze_diversity fairseq_mhmoe.cli.analyze_curves
    fairseq_mhmoe.cli.cost fairseq_mhmoe.cli.checkpoint fairseq_mhmoe.cli.evaluate fairseq_mhmoe.cli.evaluate_vqa
    fairseq_mhmoe.cli.evaluate_captions fairseq_mhmoe.cli.image_codes fairseq_mhmoe.cli.train_image_tokenizer
    fairseq_mhmoe.cli.reproduce fairseq_mhmoe.cli.lm_eval fairseq_mhmoe.cli.export torch.distributed.run
    lm_eval.evaluator transformers matplotlib.pyplot tests.docs.blocks.programs
""".split()


def serve(address: str, log: str) -> None:
    """Answers clients until it is killed; `log` gets a line of JSON for each program: words, status, CPU seconds."""
    # read when they are imported; nothing is to be written into the home of who runs the tests
    os.environ.update({name: str(Path(log).with_name(name)) for name in ("HF_HOME", "MPLCONFIGDIR")})
    logging.disable(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in MODULES:
            import_module(name)
    logging.disable(logging.NOTSET)
    gc.collect()
    gc.freeze()
    atexit._clear()  # what the server of forks has registered is not the programs'
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                keep(connection, log)
                os._exit(0)
            connection.close()
            reap()


def reap() -> None:
    """Forgets keepers that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def keep(connection: socket.socket, log: str) -> None:
    """Runs one program for one client."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb", buffering=0) as reader:
        request = json.loads(reader.readline())
        child = os.fork()
        if child == 0:
            connection.close()
            os.setpgid(0, 0)
            become(request, streams)
        for stream in streams:
            os.close(stream)
        status, usage = watch(child, connection)
    line = json.dumps({"words": request["words"], "status": status, "seconds": usage.ru_utime + usage.ru_stime})
    with open(log, "a") as output:
        output.write(line + "\n")
    try:
        connection.sendall(f"{status}\n".encode())
    except OSError:
        pass  # the client is gone


def watch(child: int, connection: socket.socket):
    """Hands on the signals that the client gets; ends the program with its client -> (status, usage)."""
    ended = os.pidfd_open(child)
    while True:
        ready, _, _ = select.select([ended, connection], [], [])
        if ended in ready:
            break
        signals = connection.recv(16)
        if not signals:
            os.killpg(child, signal.SIGKILL)
            break
        for number in signals:
            os.kill(child, number)
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), usage


def become(request: dict, streams: list[int]) -> None:
    """The forked process turns into the program; does not return."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    status = 1
    try:
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        time.tzset()
        # a new program has neither a server of forks nor a tracker of resources yet
        multiprocessing.forkserver._forkserver = multiprocessing.forkserver.ForkServer()
        multiprocessing.resource_tracker._resource_tracker.__init__()
        sys.stdin = open(0)
        sys.stdout = open(1, "w", buffering=1, closefd=False)
        sys.stderr = open(2, "w", buffering=1, closefd=False)
        run = import_module("tests.docs.blocks.programs").run
        status = exit_status(run, request["words"])
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def exit_status(function, *arguments) -> int:
    """0 to 255: what Python makes of a program's end."""
    try:
        result = function(*arguments)
    except SystemExit as end:
        result = end.code
        if isinstance(result, str):
            print(result, file=sys.stderr)
            return 1
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except BaseException:
        traceback.print_exc()
        return 1
    return int(result or 0)


def log_seconds(log: Path) -> float:
    """CPU seconds of all programs so far."""
    return sum(json.loads(line)["seconds"] for line in log.read_text().splitlines()) if log.exists() else 0.0
