"""What a benchmark ran on, for its JSON."""

import os
import platform
import subprocess
from pathlib import Path

import torch
from malloc import allocator

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, and Arm's name


def describe(device="cpu") -> dict:
    """The machine's figures that a time depends on.

    Args:
        device: the one measured on, a torch.device or its name.
    Returns:
        cpu name, cores that this process may use, threads of torch, allocator ("jemalloc", "glibc tuned", "glibc",
        "other"), whether the CPU has bfloat16 instructions (null where the system does not tell), and for a CUDA
        device its name, capability "major.minor" and memory in MiB, else null.
    """
    device = torch.device(device)
    figures = {
        "cpu": _cpu_field("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "allocator": allocator(),
        "cpu_bf16": cpu_has_bf16(),
        "gpu": None,
        "capability": None,
        "gpu_mib": None,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        figures.update(
            gpu=properties.name,
            capability=f"{properties.major}.{properties.minor}",
            gpu_mib=properties.total_memory // 2**20,
        )
    return figures


def cpu_has_bf16():
    """Whether matrix products in bfloat16 have instructions of their own; None where the system does not tell."""
    flags = _cpu_field("flags") or _cpu_field("Features")
    return bool(BF16_FLAGS & set(flags.split())) if flags else None


def _cpu_field(name: str) -> str:
    """The first value of a field of Linux's list of processors, "" without one."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def commit():
    """Short hash of what is checked out, with "-dirty" when files differ from it; None outside a checkout."""
    words = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        result = subprocess.run(words, capture_output=True, text=True, timeout=20)
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None
