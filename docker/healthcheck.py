"""The image's health check: the environment works, and torch sees the GPUs that the container was given.

About 5 seconds of one core. The GPUs are counted by the driver's management library: no memory of theirs is taken.
"""

import importlib
import sys
from pathlib import Path

PACKAGES = ("torch", "fairseq_mhmoe")


def given_gpus(devices: Path = Path("/dev")) -> int:
    """GPUs whose device files the container runtime has put into this container."""
    return sum(path.name.removeprefix("nvidia").isdecimal() for path in devices.glob("nvidia*"))


def visible_gpus() -> int:
    """GPUs that torch can use."""
    import torch

    return torch.cuda.device_count()


def report() -> tuple[bool, str]:
    """Whether the container is healthy, and one line that says why."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except Exception as error:
            return False, f"{name} does not import: {type(error).__name__}: {error}; build the image again"
    given, visible = given_gpus(), visible_gpus()
    if given == 0:
        return True, "no GPU was given to this container (docker run --gpus all): programs run on the CPU"
    if visible == 0:
        return False, f"torch sees none of {given} GPUs: see nvidia-smi on the host (CUDA 12: driver 525.60 or newer)"
    return True, f"torch sees {visible} GPUs"


if __name__ == "__main__":
    healthy, line = report()
    print(line)
    sys.exit(not healthy)
