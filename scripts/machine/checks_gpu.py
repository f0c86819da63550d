"""GPUs: what the driver sees, what torch sees, and whether they fit each other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .host import Finding, Machine, ok, problem, warning

QUERY = "name,driver_version,persistence_mode,ecc.errors.uncorrected.volatile.total"
OTHER_BUILD = (
    "install a build of torch for it: PIP_EXTRA_INDEX_URL=<PyTorch's index of that CUDA version> "
    'TORCH_SPEC="torch==X torchvision==Y" bash scripts/setup.sh   # which: docs/versions.md'
)


def _smi(machine: Machine) -> tuple[list[dict[str, str]], str, str]:
    """GPUs of nvidia-smi, the CUDA version that its driver can do ("" if it does not say), why there are none."""
    if not machine.find("nvidia-smi"):
        return [], "", "no nvidia-smi"
    table = machine.run("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader", seconds=60)
    if table.status != 0:
        return [], "", table.last_line
    rows = [dict(zip(QUERY.split(","), map(str.strip, line.split(",")))) for line in table.output.splitlines() if line]
    cuda = re.search(r"CUDA(?: UMD)? Version:\s*([\d.]+)", machine.run("nvidia-smi", seconds=60).output)
    return rows, cuda.group(1) if cuda else "", "" if rows else "nvidia-smi lists none"


def driver(machine: Machine) -> Iterator[Finding]:
    """What nvidia-smi tells: GPUs, persistence, memory errors."""
    devices = list((machine.files / "dev").glob("nvidia[0-9]*"))
    rows, cuda, why = _smi(machine)
    if not rows:
        if devices or why not in ("no nvidia-smi", "nvidia-smi lists none"):
            text = f"{len(devices)} device files of GPUs, but nvidia-smi does not work: {why}"
            yield problem("driver", text, "install the driver's tools; in a container: docker run --gpus all")
        else:
            yield ok("driver", f"no NVIDIA GPU here ({why}): programs run on the CPU")
        return
    names = sorted({row["name"] for row in rows})
    version = rows[0]["driver_version"]
    yield ok("driver", f"{len(rows)} x {', '.join(names)}, driver {version}, up to CUDA {cuda or 'unknown'}")
    if len(names) > 1:
        remedy = "CUDA_VISIBLE_DEVICES=... to take equal ones"
        yield warning("driver", "GPUs of different kinds: the slowest sets the pace", remedy)
    if any(row["persistence_mode"] == "Disabled" for row in rows):
        yield warning("driver", "persistence mode is off: programs start slower", "sudo nvidia-smi -pm 1")
    broken = [str(index) for index, row in enumerate(rows) if _number(list(row.values())[-1]) > 0]
    if broken:
        text = f"uncorrected memory errors on GPU {', '.join(broken)} since the driver was loaded"
        yield problem("driver", text, "nvidia-smi -q -d ECC,PAGE_RETIREMENT   # then restart it, or leave it out")


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def runs_on(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Whether code for these architectures runs on a GPU: sm_80 on every 8.x, compute_80 on all later ones too."""
    for name in architectures:
        kind, _, digits = name.rstrip("af").partition("_")
        if not digits.isdigit():
            continue
        major, minor = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and name[-1] in "af":
            continue  # for one chip alone; the plain one is listed too where it runs
        if (kind == "sm" and major == capability[0] and minor <= capability[1]) or (
            kind == "compute" and (major, minor) <= tuple(capability)
        ):
            return True
    return False


def torch_build(machine: Machine) -> Iterator[Finding]:
    """Whether torch's build fits driver and GPUs."""
    facts = machine.ask("torch_facts")
    if "error" in facts:
        return
    rows, cuda, _ = _smi(machine)
    text = f"torch {facts['version']}, " + (f"CUDA {facts['cuda']}" if facts["cuda"] else "for CPUs")
    hidden = machine.variables.get("CUDA_VISIBLE_DEVICES")
    if not rows:
        yield ok("torch", text)
    elif not facts["cuda"]:
        yield problem("torch", f"{text}: it can't use the GPUs", OTHER_BUILD)
    elif not facts["devices"] and hidden is not None and not hidden.strip("0123456789, ").lower().startswith("gpu"):
        remedy = "unset CUDA_VISIBLE_DEVICES"
        yield problem("torch", f"{text}: sees no GPU; CUDA_VISIBLE_DEVICES is '{hidden}'", remedy)
    elif cuda and int(cuda.split(".")[0]) < int(facts["cuda"].split(".")[0]):
        remedy = f"a newer driver, or {OTHER_BUILD}"
        yield problem("torch", f"{text}: the driver goes up to CUDA {cuda}", remedy)
    elif not facts["devices"]:
        yield problem("torch", f"{text}: sees none of {len(rows)} GPUs: {facts['why']}", "nvidia-smi -q; reboot")
    else:
        yield ok("torch", f"{text}, {len(facts['devices'])} GPUs")
    for device in {str(one): one for one in facts["devices"]}.values():
        yield from _device(device, facts["architectures"])


def _device(device: dict, architectures: list[str]) -> Iterator[Finding]:
    major, minor = device["capability"]
    name = f"{device['name']} (sm_{major}{minor}, {device['memory'] / 2**30:.0f} GB)"
    if not runs_on((major, minor), architectures):
        text = f"{name}: torch has no code for it, only {' '.join(architectures)}"
        yield problem("GPU", text, OTHER_BUILD)
    elif major < 8:
        yield ok("GPU", f"{name}: fp16; it has no bf16 (PRECISION=fp16, --fp16)")
    else:
        yield ok("GPU", f"{name}: bf16 and fp16")


def nccl(machine: Machine) -> Iterator[Finding]:
    """NCCL: one process, one GPU, one sum."""
    facts = machine.ask("torch_facts")
    if "error" in facts or not facts["devices"]:
        return
    if not facts["nccl"]:
        yield problem("NCCL", "this torch has none: several GPUs can't train together", OTHER_BUILD)
        return
    answer = machine.ask("nccl", seconds=90, NCCL_DEBUG="WARN", **NO_LAUNCHER)
    if "error" in answer:
        remedy = "NCCL_DEBUG=INFO bash scripts/doctor.sh --json   # shows why; often NCCL_SOCKET_IFNAME, or /dev/shm"
        yield problem("NCCL", f"does not start: {answer['error']}", remedy)
    else:
        yield ok("NCCL", f"{answer['version']}, a sum on one GPU in {answer['seconds']:.1f} s")


# what a launcher may have left in the shell does not belong to the probe
NO_LAUNCHER = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
CHECKS = (driver, torch_build, nccl)
