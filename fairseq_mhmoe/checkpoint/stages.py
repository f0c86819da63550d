"""Moments of a save that tests can stop at: a no-op unless two environment variables are set."""

import os
import time

import torch.distributed as dist

STAGES = ("save", "shard", "fsync", "rename", "manifest", "dense", "commit", "copies", "clean", "saved")


def reached(stage: str) -> None:
    """Logs that this rank has come to `stage` of a save, and waits.

    With MHMOE_SAVE_PAUSE (seconds, 0 allowed) and MHMOE_SAVE_LOG (a file) set, appends "rank stage monotonic-seconds"
    to the file and sleeps; otherwise does nothing. In order:
    "save" (begin), "shard" (its bytes are written), "fsync", "rename" (the shard has its name), "manifest",
    "dense" (its bytes are written), "commit" (the dense file has its name), "copies" (before last and best are made),
    "clean" (before unnamed expert folders are removed), "saved". The functions of `writing` report "shard" to "commit",
    their callers the others.
    """
    pause, log = os.environ.get("MHMOE_SAVE_PAUSE"), os.environ.get("MHMOE_SAVE_LOG")
    if pause is None or log is None:
        return
    assert stage in STAGES
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else int(os.environ.get("RANK", "0"))
    # one write in append mode: lines of several ranks never mix
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{rank} {stage} {time.monotonic():.6f}\n".encode())
    finally:
        os.close(descriptor)
    time.sleep(float(pause))
