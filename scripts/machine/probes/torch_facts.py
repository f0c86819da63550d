"""What torch is and sees, and whether what is built on it imports; JSON."""

import importlib
import json

import torch


def reason(name):
    """Why a module does not import, "" if it does."""
    try:
        importlib.import_module(name)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def devices():
    """Name, compute capability and memory in bytes of each GPU; and why there is none."""
    if not torch.cuda.is_available():
        try:
            torch.cuda.init()
        except Exception as error:
            return [], f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return [], "torch.cuda.is_available() is False"
    rows = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        rows.append({"name": facts.name, "capability": [facts.major, facts.minor], "memory": facts.total_memory})
    return rows, ""


def main():
    """Prints the facts."""
    found, why = devices()
    apex = reason("apex")
    facts = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "architectures": torch.cuda.get_arch_list(),
        "devices": found,
        "why": why,
        "nccl": torch.distributed.is_available() and torch.distributed.is_nccl_available(),
        "gloo": torch.distributed.is_available() and torch.distributed.is_gloo_available(),
        "threads": torch.get_num_threads(),
        "imports": {name: reason(name) for name in ("fairseq", "fairseq.libbase", "torchscale", "fairseq_mhmoe")},
        "apex": None if apex.startswith("ModuleNotFoundError: No module named 'apex'") else apex,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
