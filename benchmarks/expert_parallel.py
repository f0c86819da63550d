"""What the exchange of rows between processes costs: MoE layers alone, forward and backward, over 1, 2, 4 processes.

    python benchmarks/expert_parallel.py --quick --json figures.json

Every process has the same number of tokens, whatever their number P, and 1 / P of the experts. With GPUs there is one
process on each (nccl), else processes share the CPU (gloo), with one thread each: 4 of them on 2 cores can't be fast,
and only ratios of a row mean something. The sizes take turns, and medians are printed.

D model width, H heads, K choices, N experts, F their inner width, P processes.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.moe import MoEConfig, MoELayer
from fairseq_mhmoe.moe import exchange as moe_exchange
from fairseq_mhmoe.moe.parallel import ExpertGroup

QUICK = dict(width=256, ffn_dim=256, tokens=512, layers=2, rounds=2, steps=4)


@dataclass
class Row:
    """Medians over steps, of one process on average; milliseconds and bytes per step."""

    processes: int
    step_ms: float
    compute_ms: float
    wait_ms: float  # until all processes have come to an exchange
    exchange_ms: float
    tokens_per_second: float  # of all processes
    bytes_per_token: float  # handed to exchanges
    formula_bytes_per_token: float
    remote_share: float
    even_remote_share: float  # (P - 1) / P


class Stopwatch:
    """Takes the place of the function through which all exchanges go, and measures it."""

    def __init__(self, group, device):
        self.group, self.device, self.original = group, device, moe_exchange._all_to_all
        self.wait = self.exchange = 0.0

    def __call__(self, *args):
        start = now(self.device)
        dist.barrier(group=self.group)
        arrived = now(self.device)
        self.original(*args)
        self.wait += arrived - start
        self.exchange += now(self.device) - arrived


def now(device):
    """Seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def build(options, group, device):
    """The MoE layers of one process."""
    torch.manual_seed(0)
    config = MoEConfig(
        options.width, options.experts, options.ffn_dim, options.top_k, options.heads, activation="swiglu", bias=False
    )
    layers = torch.nn.ModuleList(MoELayer(config, group, f"layers.{i}") for i in range(options.layers))
    return layers.to(device, getattr(torch, options.dtype))


def step(layers, x, recompute):
    """One pass forward and backward."""
    layers.zero_grad()
    y = x
    for layer in layers:
        y = y + (checkpoint(layer, y, use_reentrant=False) if recompute else layer(y))[0]
    y.square().mean().backward()


def measure(options, group, device):
    """[step, wait, exchange] seconds of every step of one process, and its bytes and remote bytes per step."""
    layers = build(options, group, device)
    generator = torch.Generator().manual_seed(group.world_rank)
    x = torch.randn(1, options.tokens, options.width, generator=generator).to(device, getattr(torch, options.dtype))
    x.requires_grad_()
    step(layers, x, options.recompute)  # warm-up
    times = []
    stopwatch = Stopwatch(group.group, device)
    moe_exchange._all_to_all = stopwatch
    try:
        for _ in range(options.steps):
            group.traffic.reset()
            stopwatch.wait = stopwatch.exchange = 0.0
            start = now(device)
            step(layers, x, options.recompute)
            times.append([now(device) - start, stopwatch.wait, stopwatch.exchange])
    finally:
        moe_exchange._all_to_all = stopwatch.original
    return times, group.traffic.bytes, group.traffic.remote_bytes


def work(rank, options, sizes, folder):
    """One process: takes part in the jobs of all sizes above its rank; rank 0 leaves the rows in a file."""
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = f"file://{folder}/store"
    dist.init_process_group(backend, init_method=store, rank=rank, world_size=max(sizes))
    members = {size: dist.new_group(list(range(size))) if size > 1 else None for size in sizes}
    groups = {size: ExpertGroup(size, size, rank, members[size]) for size in sizes if rank < size}
    measured = {size: [] for size in groups}
    for _, size in itertools.product(range(options.rounds), sizes):
        if size in groups:
            measured[size].append(measure(options, groups[size], device))
        dist.barrier()
    gathered = [None] * max(sizes)
    dist.all_gather_object(gathered, measured)
    if rank == 0:
        torch.save([asdict(row(options, size, gathered[:size])) for size in sizes], f"{folder}/rows")
    dist.destroy_process_group()


def row(options, size, ranks):
    """One line of the table from what every process measured."""
    rounds = [result for measured in ranks for result in measured[size]]
    steps, waits, exchanges = (
        1000 * statistics.median(times[i] for result in rounds for times in result[0]) for i in range(3)
    )
    sent, remote = (statistics.mean(result[i] for result in rounds) for i in (1, 2))
    return Row(
        processes=size,
        step_ms=steps,
        compute_ms=steps - waits - exchanges,
        wait_ms=waits,
        exchange_ms=exchanges,
        tokens_per_second=size * options.tokens / steps * 1000,
        bytes_per_token=sent / options.tokens,
        formula_bytes_per_token=formula(options) if size > 1 else 0.0,
        remote_share=remote / max(sent, 1),
        even_remote_share=(size - 1) / size,
    )


def formula(options):
    """Layers * exchanges * K * D * bytes of an element: H sub-tokens of width D / H go to K experts each."""
    exchanges = 6 if options.recompute else 4
    return options.layers * exchanges * options.top_k * options.width * getattr(torch, options.dtype).itemsize


def table(rows):
    """The rows as text."""
    head = "| P | ms/step | compute | wait | exchange | tokens/s | bytes/token | formula | remote | (P-1)/P |"
    lines = [head, "|" + "---:|" * 10]
    for r in rows:
        parts = [100 * r[name] / r["step_ms"] for name in ("compute_ms", "wait_ms", "exchange_ms")]
        cells = [r["processes"], f"{r['step_ms']:.1f}", *(f"{part:.0f} %" for part in parts)]
        cells += [f"{r[name]:.0f}" for name in ("tokens_per_second", "bytes_per_token", "formula_bytes_per_token")]
        cells += [f"{100 * r[name]:.0f} %" for name in ("remote_share", "even_remote_share")]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def make_parser():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("width", 768, "D"),
        ("heads", 2, "H"),
        ("experts", 8, "N"),
        ("top-k", 2, "K"),
        ("ffn-dim", 768, "F"),
        ("tokens", 4096, "tokens of each process and step"),
        ("layers", 4, "MoE layers"),
        ("rounds", 5, "how often the sizes take turns"),
        ("steps", 10, "steps of a size in a round"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: {default})")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing: six exchanges, not four")
    parser.add_argument("--processes", type=int, nargs="+", help="sizes (default: 1 2 4, with GPUs up to their number)")
    parser.add_argument("--quick", action="store_true", help="small layers, few steps")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser


def parse(words):
    """The options, checked."""
    parser = make_parser()
    given = [word.split("=")[0].removeprefix("--").replace("-", "_") for word in words if word.startswith("--")]
    options = parser.parse_args(words)
    if options.quick:
        vars(options).update({name: value for name, value in QUICK.items() if name not in given})
    gpus = torch.cuda.device_count()
    if options.processes is None:
        options.processes = [size for size in (1, 2, 4, 8) if size <= gpus] if gpus else [1, 2, 4]
    for size in options.processes:
        if size < 1 or options.experts % size:
            parser.error(f"--processes {size}: expected divisors of --experts {options.experts}")
        if gpus and size > gpus:
            parser.error(f"--processes {size}: there are {gpus} GPUs")
    return options


def main(words=None):
    """Measures and prints."""
    options = parse(sys.argv[1:] if words is None else words)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (options, options.processes, folder), nprocs=max(options.processes))
        rows = torch.load(f"{folder}/rows", weights_only=True)
    print(table(rows))
    if options.json is not None:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
        write_json(options.json, {"settings": settings, "device": device, "torch": torch.__version__, "rows": rows})


if __name__ == "__main__":
    main()
