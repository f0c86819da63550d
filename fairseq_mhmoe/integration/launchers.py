"""Which rank this process is, from the variables that torchrun, Open MPI's mpirun and Slurm's srun set.

They are looked at in this order: torchrun runs inside srun's tasks, and mpirun's daemons are tasks of srun themselves.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Optional

TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
HOST_REMEDY = "the address of the machine of rank 0"
PORT_REMEDY = "a free port of the machine of rank 0, the same for all ranks, for example 29500"
REMEDIES = {
    "RANK": "the number of this process, 0 to WORLD_SIZE - 1",
    "WORLD_SIZE": "the number of processes",
    "LOCAL_RANK": "the number of this process on its machine, 0 when it is alone there",
    "OMPI_COMM_WORLD_RANK": "what mpirun sets: the number of this process",
    "OMPI_COMM_WORLD_LOCAL_RANK": "what mpirun sets: the number of this process on its machine",
    "SLURM_LOCALID": "what srun sets: the number of this task on its machine",
    "MASTER_ADDR": HOST_REMEDY,
    "MASTER_PORT": PORT_REMEDY,
}


@dataclass(frozen=True)
class Place:
    """Where a process stands in its job.

    init_method: what torch.distributed.init_process_group takes; "env://" leaves torchrun's own store in use.
    """

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    init_method: str


def find_place() -> Optional[Place]:
    """This process's place in a job of several; None when it was started alone.

    Raises:
        ValueError: a launcher's variable is missing or not a number; says what to set.
    """
    for launcher in (_torchrun, _open_mpi, _slurm):
        place = launcher()
        if place is not None:
            return place
    return None


def _torchrun():
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    if os.environ["WORLD_SIZE"] == "1":
        return Place("torchrun", 0, 1, 0, "env://")
    rank, world_size, local_rank, _, _ = (_required("torchrun", name) for name in TORCHRUN_VARIABLES)
    return _checked(Place("torchrun", rank, world_size, local_rank, "env://"))


def _open_mpi():
    if _number("Open MPI", "OMPI_COMM_WORLD_SIZE", absent=1) == 1:
        return None
    rank, local_rank = (_required("Open MPI", f"OMPI_COMM_WORLD_{name}") for name in ("RANK", "LOCAL_RANK"))
    address, port = (_required("Open MPI", name) for name in ("MASTER_ADDR", "MASTER_PORT"))
    world_size = _number("Open MPI", "OMPI_COMM_WORLD_SIZE")
    return _checked(Place("Open MPI", rank, world_size, local_rank, f"tcp://{address}:{port}"))


def _slurm():
    if "SLURM_PROCID" not in os.environ or _is_slurm_batch_script():
        return None
    tasks = next((name for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if name in os.environ), None)
    if tasks is None or (world_size := _number("Slurm", tasks)) == 1:
        return None
    rank, local_rank = (_required("Slurm", name) for name in ("SLURM_PROCID", "SLURM_LOCALID"))
    return _checked(Place("Slurm", rank, world_size, local_rank, f"tcp://{_slurm_host()}:{_slurm_port()}"))


def _is_slurm_batch_script():
    """A script given to sbatch sees the job's variables, rank 0 among them, and is one process all the same."""
    in_a_step = "SLURM_STEP_NUM_TASKS" in os.environ
    knows_where_to_meet = "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ
    is_first = os.environ["SLURM_PROCID"] == "0"
    return "SLURM_JOB_ID" in os.environ and is_first and not in_a_step and not knows_where_to_meet


def _slurm_host():
    if os.environ.get("MASTER_ADDR"):
        return os.environ["MASTER_ADDR"]
    hosts = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST")
    if hosts and not set(hosts) & set("[],"):
        return hosts
    if not hosts or shutil.which("scontrol") is None:
        raise ValueError(
            f"Slurm: MASTER_ADDR is not set, and the job's first host is not known; set it to {HOST_REMEDY}"
        )
    listed = subprocess.run(["scontrol", "show", "hostnames", hosts], capture_output=True, text=True, timeout=60)
    if listed.returncode != 0 or not listed.stdout.split():
        raise ValueError(
            f"Slurm: MASTER_ADDR is not set, and `scontrol show hostnames {hosts}` said {listed.stderr.strip()!r}; "
            f"set it to {HOST_REMEDY}"
        )
    return listed.stdout.split()[0]


def _slurm_port():
    if os.environ.get("MASTER_PORT"):
        return _number("Slurm", "MASTER_PORT")
    if "SLURM_JOB_ID" not in os.environ:
        raise ValueError(f"Slurm: MASTER_PORT is not set; set it to {PORT_REMEDY}")
    # the same for all tasks of a job step, another one for most others
    return 20000 + (_number("Slurm", "SLURM_JOB_ID") + _number("Slurm", "SLURM_STEP_ID", absent=0)) % 20000


def _required(launcher, name):
    if not os.environ.get(name):
        raise ValueError(f"{launcher} started this process, but {name} is not set; set it to {REMEDIES[name]}")
    return os.environ[name] if name == "MASTER_ADDR" else _number(launcher, name)


def _number(launcher, name, absent=None):
    text = os.environ.get(name)
    if text is None and absent is not None:
        return absent
    if not (text or "").isdecimal():
        remedy = f"; set it to {REMEDIES[name]}" if name in REMEDIES else ""
        raise ValueError(f"{launcher}: {name} is {text!r}, expected a whole number{remedy}")
    return int(text)


def _checked(place):
    if place.rank >= place.world_size:
        raise ValueError(f"{place.launcher}: rank {place.rank} of {place.world_size} processes; they count from 0")
    return place
