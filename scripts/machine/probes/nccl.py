"""One process, one GPU, one sum by NCCL; prints {"version", "seconds"}."""

import json
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

start = time.monotonic()
with tempfile.TemporaryDirectory() as folder:
    place = Path(folder, "meeting").as_uri()
    dist.init_process_group("nccl", init_method=place, rank=0, world_size=1, timeout=timedelta(seconds=60))
    value = torch.ones(1, device="cuda:0")
    dist.all_reduce(value)
    torch.cuda.synchronize()
    dist.destroy_process_group()
version = ".".join(map(str, torch.cuda.nccl.version()))
print(json.dumps({"version": version, "seconds": time.monotonic() - start}))
