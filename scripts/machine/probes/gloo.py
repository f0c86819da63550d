"""gloo.py PORT: two processes meet at 127.0.0.1:PORT and add 1 and 2, by gloo; prints {"seconds"}, or {"error"}.

The second is a fork, so torch is imported once. Interface and host name are found as in a training.
"""

import json
import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

LIMIT = timedelta(seconds=30)


def work(rank, port):
    """One rank's part -> "" or why it failed."""
    try:
        meeting = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=LIMIT)
        value = torch.tensor([rank + 1.0])
        dist.all_reduce(value)
        dist.destroy_process_group()
        return "" if value.item() == 3 else f"1 + 2 gave {value.item()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:300]


start = time.monotonic()
child = os.fork()
reason = work(0 if child else 1, int(sys.argv[1]))
if child == 0:
    os._exit(bool(reason))
if reason:
    print(json.dumps({"error": reason}))
    sys.stdout.flush()
    os.kill(child, 9)
os.waitpid(child, 0)
if not reason:
    print(json.dumps({"seconds": time.monotonic() - start}))
