"""Starts processes that talk to each other over loopback: under torchrun, or forked from one that has imported all.

torchrun is what people use, and costs seconds of imports per process. `python_ranks` and `program_ranks` use forks
(forks.py) and set torchrun's variables.
Everything has a time limit, and only what was started here is ended.
"""

import multiprocessing.connection
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from .. import forks
from ..forks import QUIET, ROOT, become, server

# A model of a few thousand weights: 2 blocks, the second with 4 experts.
TINY_MODEL = {
    "arch": "mhmoe_lm_tiny",
    "decoder_embed_dim": 24,
    "decoder_ffn_embed_dim": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "moe_expert_count": 4,
    "moe_ffn_dim": 16,
}
TRAINING = {
    "user_dir": "fairseq_mhmoe",
    "cpu": True,
    "task": "gpt",
    **TINY_MODEL,
    "criterion": "moe_cross_entropy",
    "optimizer": "sgd",
    "lr": 0.5,
    "tokens_per_sample": 32,
    "batch_size": 4,
    "required_batch_size_multiple": 1,
    "num_workers": 0,
    "log_format": "json",
    "log_interval": 1,
    "no_epoch_checkpoints": True,
    "ddp_backend": "legacy_ddp",
}


def words_of(options):
    """Command-line words of a dictionary; True is a flag, None and False are left out."""
    words = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(str(value))
    return words


def train_words(data, save_dir, **options):
    """Words of fairseq-train for a tiny MoE model on the CPU; `max_update` is for the caller to give."""
    return [str(data), *words_of({**TRAINING, "save_dir": save_dir, **options})]


def train_command(data, save_dir, **options):
    """The same with the program in front, for `torchrun`."""
    return [Path(sys.executable).with_name("fairseq-train"), *train_words(data, save_dir, **options)]


def free_port():
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_torchrun(command, processes=2, env=None, **options):
    """Starts one command in several processes -> Popen: the leader of a process group of its own, text output.

    Args:
        command: a Python file (or program in Python) and its words.
        env: more environment variables.
        options: for Popen; stderr comes within stdout unless told otherwise.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    address = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    defaults = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    return subprocess.Popen(
        [*launcher, *address, *map(str, command)],
        env={**os.environ, **QUIET, **(env or {})},
        **{**defaults, **options},
    )


def kill_group(process):
    """Ends a process of `start_torchrun` and the ranks that it started, which are in sessions of their own."""
    ranks = []
    if process.poll() is None:
        os.kill(process.pid, signal.SIGSTOP)  # it starts no more while they are looked for
        ranks = children_of(process.pid)
    for group in [*ranks, process.pid]:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait(timeout=10)


def children_of(pid):
    """Numbers of the processes that a process has started and that still are its children."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for children in lists for child in children.read_text().split()]


def torchrun(command, processes=2, seconds=150, env=None):
    """Runs one command in several processes -> (exit status, output). TimeoutExpired, with all ended, if it hangs."""
    process = start_torchrun(command, processes, env)
    try:
        output, _ = process.communicate(timeout=seconds)
    except BaseException:
        kill_group(process)
        raise
    return process.returncode, output


def torchrun_environment(rank, processes, port):
    """What torchrun tells a process on a single machine."""
    names = dict(RANK=rank, WORLD_SIZE=processes, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=processes)
    return {**{name: str(value) for name, value in names.items()}, **master(port)}


def slurm_environment(rank, processes, port):
    """What srun tells a task, and the place to meet, which the job script sets."""
    names = dict(PROCID=rank, NTASKS=processes, STEP_NUM_TASKS=processes, LOCALID=rank, JOB_ID=17, STEP_ID=0)
    return {**{f"SLURM_{name}": str(value) for name, value in names.items()}, **master(port)}


def open_mpi_environment(rank, processes, port):
    """What mpirun tells a process, and the place to meet, which the job script sets."""
    names = dict(RANK=rank, SIZE=processes, LOCAL_RANK=rank)
    return {**{f"OMPI_COMM_WORLD_{name}": str(value) for name, value in names.items()}, **master(port)}


def master(port):
    """Where the ranks meet."""
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


@dataclass
class Ended:
    """How one rank ended: exit status (negative: the signal; None: still running at the time limit), and its output."""

    status: int
    output: str


class RankFailed(AssertionError):
    """A rank of `python_ranks` raised or died; the message holds the output of all ranks."""


def python_ranks(function, processes=2, arguments=(), seconds=60, env=None):
    """function(*arguments) in `processes` ranks joined by gloo -> list of its results, one a rank.

    Args:
        function: of a module that can be imported (a test module is one), not a lambda or a nested one.
        arguments: the same for all ranks; they and the result must pickle.
        env: more environment variables.
    Raises:
        RankFailed: with the output (traceback) of every rank.
    """
    with tempfile.TemporaryDirectory() as folder:
        call = (_joined_call, (function, arguments, folder, seconds))
        ended = fork_ranks(call, processes, seconds, lambda rank, port: env or {})
        if any(rank.status != 0 for rank in ended):
            raise RankFailed(describe(ended))
        return [pickle.loads(Path(folder, str(rank)).read_bytes()) for rank in range(processes)]


def program_ranks(program, words, processes=2, seconds=120, environment=torchrun_environment, before=None):
    """A program of fairseq in several ranks -> list of Ended, one a rank.

    Args:
        program: "fairseq-train", ...
        environment: f(rank, processes, port) -> the launcher's variables; torchrun's by default.
        before: f(), of a module that can be imported, called in each rank before the program starts.
    """
    call = (forks.program, (program, [str(word) for word in words], before))
    return fork_ranks(call, processes, seconds, lambda rank, port: environment(rank, processes, port), bare=True)


def describe(ended):
    """The ranks' exit statuses and last lines."""
    return "\n".join(f"--- rank {i}: status {one.status}\n{one.output[-4000:]}" for i, one in enumerate(ended))


def fork_ranks(call, processes, seconds, environment, bare=False):
    """Runs call = (function, arguments) in forked ranks -> list of Ended. Ends those left at the time limit."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        ranks = []
        for rank in range(processes):
            settings = {**QUIET, **({} if bare else torchrun_environment(rank, processes, port))}
            settings.update(environment(rank, port))
            output = str(Path(folder, f"{rank}.txt"))
            ranks.append(server().Process(target=become, args=(call, settings, output), daemon=True))
        try:
            for rank in ranks:
                rank.start()
            end = time.monotonic() + seconds
            while (running := [rank.sentinel for rank in ranks if rank.is_alive()]) and time.monotonic() < end:
                multiprocessing.connection.wait(running, timeout=end - time.monotonic())
            statuses = [rank.exitcode for rank in ranks]
        finally:
            for rank in ranks:
                if rank.pid is not None:
                    rank.kill()
                    rank.join(10)
        return [Ended(status, Path(folder, f"{i}.txt").read_text()) for i, status in enumerate(statuses)]


def _joined_call(function, arguments, folder, seconds):
    dist.init_process_group("gloo", timeout=timedelta(seconds=seconds))
    result = function(*arguments)
    Path(folder, str(dist.get_rank())).write_bytes(pickle.dumps(result))
    dist.barrier()
    dist.destroy_process_group()
