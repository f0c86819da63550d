"""Processes that have to find each other: host name, ports, gloo; and variables that lead them astray."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator

from .host import Finding, Machine, ok, problem, warning

PORT = 29500
LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "Slurm's srun": ("SLURM_PROCID", "SLURM_STEP_ID"),
}
# variable -> (values that hurt, what they do)
HARMFUL = {
    "NCCL_P2P_DISABLE": ("1", "GPUs of one machine exchange through the host's memory: much slower"),
    "NCCL_IB_DISABLE": ("1", "InfiniBand is not used: nodes exchange over TCP"),
    "NCCL_SHM_DISABLE": ("1", "processes of one machine exchange over the network"),
    "NCCL_DEBUG": ("(INFO|TRACE)", "prints much, in every process"),
    "TORCH_DISTRIBUTED_DEBUG": ("DETAIL", "checks every exchange against the other ranks: much slower"),
    "CUDA_LAUNCH_BLOCKING": ("1", "waits for every kernel: much slower; for looking for errors only"),
    "TORCH_NCCL_BLOCKING_WAIT": ("1", "every exchange stops the processor until it is done"),
    "NCCL_BLOCKING_WAIT": ("1", "every exchange stops the processor until it is done"),
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": ("(1|y|yes|true)", "checkpoints of other programs can't be trusted one by one"),
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": ("(1|y|yes|true)", "files are executed while they are read"),
    "PYTORCH_JIT": ("0", "compiled parts run as plain Python"),
}


def host_name(machine: Machine) -> Iterator[Finding]:
    """gloo looks its own host's name up and binds to what it gets."""
    name = machine.run("hostname").output.strip() or socket.gethostname()
    answer = machine.run("getent", "hosts", name, seconds=15)
    address = answer.output.split()[0] if answer.status == 0 and answer.output.split() else ""
    if not address and not machine.find("getent"):
        yield warning("host name", f"{name}: can't be looked up without getent", "apt-get install libc-bin")
    elif not address:
        remedy = f"echo '127.0.0.1 {name}' | sudo tee -a /etc/hosts   # on one machine: export GLOO_SOCKET_IFNAME=lo"
        yield problem("host name", f"{name} has no address: processes do not find each other", remedy)
    else:
        yield ok("host name", f"{name} is {address}")


def interfaces(machine: Machine) -> Iterator[Finding]:
    """Interfaces that variables name must be there."""
    present = sorted(path.name for path in (machine.files / "sys/class/net").glob("*"))
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"):
        value = machine.variables.get(variable, "")
        if not value or value.startswith("^"):
            continue
        wanted = [name for name in value.lstrip("=").split(",") if name]
        exact = variable != "NCCL_SOCKET_IFNAME" or value.startswith("=")
        found = [name for name in wanted if name in present or (not exact and any(p.startswith(name) for p in present))]
        if present and (not found or (exact and found != wanted)):
            text = f"{variable}={value}: this machine has {', '.join(present)}"
            yield problem("interfaces", text, f"unset {variable}   # or one of these names")
        else:
            yield ok("interfaces", f"{variable}={value}")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def port(machine: Machine) -> Iterator[Finding]:
    """The port at which ranks meet."""
    asked = machine.variables.get("MASTER_PORT") or str(PORT)
    if not asked.isdigit() or not 0 < int(asked) < 65536:
        yield problem("port", f"MASTER_PORT={asked} is no port", "unset MASTER_PORT")
        return
    try:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", int(asked)))
        yield ok("port", f"{asked} is free")
    except OSError as error:
        text = f"{asked} can't be taken: {error.strerror}; a training with several processes would not start"
        yield warning("port", text, f"export MASTER_PORT={free_port()}   # ss -ltnp shows who has it")


def gloo(machine: Machine) -> Iterator[Finding]:
    """Two processes add two numbers over the loopback."""
    facts = machine.ask("torch_facts")
    if "error" in facts:
        return
    if not facts["gloo"]:
        yield problem("gloo", "this torch has none: several processes can't train on CPUs", "another build of torch")
        return
    answer = machine.ask("gloo", str(free_port()), seconds=90)
    if "error" in answer:
        remedy = "export GLOO_SOCKET_IFNAME=lo   # several machines: the interface that joins them (ip -brief address)"
        yield problem("gloo", f"two processes do not find each other: {answer['error']}", remedy)
    else:
        yield ok("gloo", f"two processes met and added in {answer['seconds']:.1f} s")


def launcher(machine: Machine) -> Iterator[Finding]:
    """Variables of a launcher in a shell: a training would wait for ranks that nobody starts."""
    left = []
    for name, variables in LAUNCHERS.items():
        there = [variable for variable in variables if machine.variables.get(variable)]
        # MASTER_ADDR alone names a meeting place; a Slurm batch script, which starts srun, has no step
        if variables[0] in there and (name != "Slurm's srun" or "SLURM_STEP_ID" in there):
            left.append((name, there))
    for name, there in left:
        text = f"variables of {name} are set here ({', '.join(there)}): fairseq-train would wait for other ranks"
        yield warning("launcher", text, f"unset {' '.join(there)}   # unless this runs inside a job")
    if not left:
        yield ok("launcher", "no variables left over")


def threads(machine: Machine) -> Iterator[Finding]:
    """OMP_NUM_THREADS and its like."""
    cores = os.cpu_count() or 1
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        value = machine.variables.get(variable)
        if value is None:
            continue
        if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", value):
            yield warning("threads", f"{variable}='{value}' is no number of threads", f"unset {variable}")
        elif int(value.split(",")[0]) > cores:
            text = f"{variable}={value}, more than {cores} cores: threads get in each other's way"
            yield warning("threads", text, f"export {variable}={cores}")
        else:
            yield ok("threads", f"{variable}={value}")


def variables(machine: Machine) -> Iterator[Finding]:
    """Variables that slow a training down, or make it unsafe."""
    found = False
    for name, (pattern, effect) in HARMFUL.items():
        value = machine.variables.get(name)
        if value is not None and re.fullmatch(pattern, value, re.IGNORECASE):
            found = True
            yield warning("variables", f"{name}={value}: {effect}", f"unset {name}")
    if not found:
        yield ok("variables", "none that is known to hurt")


def proxies(machine: Machine) -> Iterator[Finding]:
    """Proxies, and whether loopback goes past them. Their addresses are not shown: they may hold passwords."""
    names = [name for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY") if _either(machine, name)]
    if not names:
        yield ok("proxies", "none")
    elif not re.search(r"localhost|127\.0\.0\.1|\*", _either(machine, "NO_PROXY")):
        remedy = "export NO_PROXY=localhost,127.0.0.1"
        yield warning("proxies", f"{', '.join(names)} set, and NO_PROXY leaves this machine itself out", remedy)
    else:
        yield ok("proxies", f"{', '.join(names)} set, this machine itself goes without")


def _either(machine: Machine, name: str) -> str:
    return machine.variables.get(name) or machine.variables.get(name.lower()) or ""


WITHOUT_TORCH = (host_name, interfaces, port, launcher, threads, variables, proxies)
CHECKS = (*WITHOUT_TORCH, gloo)
