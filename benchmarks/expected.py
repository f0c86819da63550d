"""What a MoE layer should cost on a GPU, on paper: a roofline over the operations that it really hands to the device.

    python benchmarks/expected.py --devices V100 A100 H100 --json expected.json

Every operation takes what the slowest of three takes: its FLOPs at the attainable rate, its bytes at the attainable
bandwidth, the least time of a kernel. The host hands operations over one by one; a pass takes what the slower of host
and device takes, and where the host waits for the device (a copy of the counts) they start anew. Nothing is measured
here: `gpu.sh` puts measured times beside these.
"""

import argparse
import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from layer_cases import CONFIGS, with_fields
from machine import commit
from operations import Operation, record

from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.moe import MoEConfig


@dataclass(frozen=True)
class Device:
    """A GPU by its vendor's data sheet: peak rates without sparsity."""

    dtype: str  # what one trains in there
    half_tflops: float  # matrix products in that type
    float32_tflops: float  # products in float32, TF32 off: the router's
    bandwidth: float  # GB/s
    processors: int  # streaming multiprocessors
    capability: int  # major compute capability
    source: str


DEVICES = {
    "V100": Device("float16", 125, 15.7, 900, 80, 7, "NVIDIA V100 data sheet, SXM2"),
    "A100": Device("bfloat16", 312, 19.5, 2039, 108, 8, "NVIDIA A100 80GB data sheet, SXM"),
    "H100": Device("bfloat16", 989, 67, 3350, 132, 9, "NVIDIA H100 data sheet, SXM5; 1979 with sparsity halved"),
}
ASSUMPTIONS = {
    "products": 0.7,  # share of the peak rate that large matrix products reach
    "bandwidth": 0.8,  # share of the bandwidth that kernels over contiguous memory reach
    "gather": 0.7,  # the same of index_select: 84 MB in 36 us on an H100 (PyTorch issue 151612)
    "gather_sum": 0.17,  # of embedding_bag: 67 MB in 103 us on an H20 of 4 TB/s (FlagGems pull request 5610)
    "sort_passes": 4,  # how often a radix sort of 16-bit keys reads and writes all
    "kernel_us": 2.0,  # the least time between the ends of two kernels
    "host_us": 6.0,  # to hand over one operation from Python and autograd
    "loop_us": 10.0,  # to hand over one product of the loop: three views and the product
    "sync_us": 20.0,  # to wait for the device and read a result
    "tiles": {128: 1.0, 64: 0.6},  # rows and columns of a result that one multiprocessor computes: relative rate
    "capacity_factor": 1.25,  # of the back end bmm: slots per expert over the mean number of rows
}
CONFIGURATIONS = ("a", "b", "c", "d8", "d32", "e")
TOKENS = (2048, 8192, 32768)
BACKENDS = ("loop", "grouped_mm", "bmm")


def operations_of(config: MoEConfig, tokens: int, backend: str):
    """Forward and backward operations with this back end; those of the loop are those of grouped_mm, split up later."""
    changes = {"backend": "grouped_mm" if backend == "loop" else backend}
    if backend == "bmm":
        changes["capacity_factor"] = ASSUMPTIONS["capacity_factor"]
    return record(with_fields(config, **changes), tokens)


def fast_grouped_mm(device: Device) -> bool:
    """Whether torch has a grouped kernel there; elsewhere grouped_mm is a loop that waits for the device each time."""
    return device.capability == 9 and device.dtype == "bfloat16"


def device_us(operation: Operation, device: Device, backend: str) -> float:
    """Microseconds that the device needs for an operation."""
    share = ASSUMPTIONS.get(operation.kind, ASSUMPTIONS["bandwidth"])
    passes = ASSUMPTIONS["sort_passes"] if operation.kind == "sort" else 1
    memory = passes * operation.bytes / (device.bandwidth * share * 1e3)
    peak = (device.float32_tflops if operation.kind == "router" else device.half_tflops) * ASSUMPTIONS["products"] * 1e6
    calls = operation.groups if is_loop(operation, device, backend) else 1
    arithmetic = operation.flops / peak / use_of_tiles(operation, device, calls)
    return max(arithmetic, memory, calls * ASSUMPTIONS["kernel_us"])


def is_loop(operation: Operation, device: Device, backend: str) -> bool:
    """Whether a grouped product is one product an expert."""
    return operation.kind == "grouped" and (backend == "loop" or not fast_grouped_mm(device))


def use_of_tiles(operation: Operation, device: Device, calls: int) -> float:
    """Share of the arithmetic that is wanted, of what the multiprocessors could do meanwhile, under balanced routing.

    The last tile of each group is half full on average, and a product alone leaves multiprocessors idle in its last
    round. The better size of tiles is taken.
    """
    if operation.kind != "grouped":
        return 1.0
    rows, columns, inner = operation.shape
    ragged = rows if operation.ragged == "rows" else inner
    rows = rows / calls if operation.ragged == "rows" else rows

    def use(tile: int, rate: float) -> float:
        full = ragged / (ragged + operation.groups * tile / 2)
        if calls == 1:
            return rate * full
        tiles = math.ceil(rows / tile) * math.ceil(columns / tile)
        return rate * full * tiles / (device.processors * math.ceil(tiles / device.processors))

    return max(use(tile, rate) for tile, rate in ASSUMPTIONS["tiles"].items())


def estimate(operations, device: Device, backend: str) -> dict:
    """Milliseconds of these operations: of the device, of the host, and together; kernels, and waits for the device."""
    stretches = [[0.0, 0.0]]  # microseconds of device and host between two waits
    kernels = waits = 0
    for operation in operations:
        looped = is_loop(operation, device, backend)
        if looped and (backend == "grouped_mm" or waits == 0):
            stretches.append([0.0, ASSUMPTIONS["sync_us"]])
            waits += 1
        calls = operation.groups if looped else 1
        kernels += calls
        stretches[-1][0] += device_us(operation, device, backend)
        stretches[-1][1] += calls * ASSUMPTIONS["loop_us" if looped else "host_us"]
    device_time, host_time = (sum(stretch[i] for stretch in stretches) / 1e3 for i in range(2))
    together = sum(map(max, stretches)) / 1e3
    times = {"ms": together, "device_ms": device_time, "host_ms": host_time}
    return {**{name: round(value, 6) for name, value in times.items()}, "kernels": kernels, "waits": waits}


def limit_ms(operations, device: Device) -> float:
    """Milliseconds of the matrix products alone, at their attainable rate and without any loss."""
    products = [o for o in operations if o.kind in ("grouped", "product", "router")]
    return round(sum(device_us(dataclasses.replace(o, kind="product"), device, "") for o in products) / 1e3, 6)


def rows_of(name: str, config: MoEConfig, tokens: int, devices: dict) -> list:
    """The lines of one configuration and size: both passes, all devices, all back ends."""
    rows = []
    recorded = {backend: operations_of(config, tokens, backend) for backend in BACKENDS}
    for device_name, device in devices.items():
        for label, passes in (("forward", 1), ("forward+backward", 2)):
            limit = sum(limit_ms(part, device) for part in recorded["grouped_mm"][:passes])
            lines = []
            for backend, parts in recorded.items():
                total = estimate([operation for part in parts[:passes] for operation in part], device, backend)
                line = {"device": device_name, "dtype": device.dtype, "config": name, "tokens": tokens, "pass": label}
                lines.append(
                    {
                        **line,
                        "backend": backend,
                        **total,
                        "limit_ms": limit,
                        "ratio_limit": round(total["ms"] / limit, 4),
                    }
                )
            best = min(lines, key=lambda line: line["ms"])
            for line in lines:
                line["best"], line["auto"] = line is best, line["backend"] == auto_backend(device)
            rows += lines
    return rows


def auto_backend(device: Device) -> str:
    """What `MoEConfig.backend = "auto"` takes there (a test holds it against the layer's own choice)."""
    return "grouped_mm" if fast_grouped_mm(device) else "loop"


def table(rows: list) -> str:
    """A line for each device, configuration and size: forward + backward with each back end, as Markdown."""
    head = "| device | layer | tokens | limit ms |" + "".join(f" {backend} ms |" for backend in BACKENDS)
    lines = [head + " auto | best | bound by |", "|---|---|---:|---:|" + "---:|" * len(BACKENDS) + "---|---|---|"]
    keys = dict.fromkeys((r["device"], r["config"], r["tokens"]) for r in rows)
    for device, config, tokens in keys:
        lines_of = {
            r["backend"]: r
            for r in rows
            if (r["device"], r["config"], r["tokens"], r["pass"]) == (device, config, tokens, "forward+backward")
        }
        auto, best = (next(r for r in lines_of.values() if r[mark]) for mark in ("auto", "best"))
        bound = "device" if best["device_ms"] >= best["host_ms"] else "host"
        cells = [device, config, str(tokens), f"{best['limit_ms']:.3f}"]
        cells += [f"{lines_of[backend]['ms']:.3f}" for backend in BACKENDS]
        lines.append("| " + " | ".join([*cells, auto["backend"], best["backend"], bound]) + " |")
    return "\n".join(lines)


def conclusions(rows: list, devices: dict) -> list:
    """A sentence or two a device: what auto takes, what is best on paper, and what decides it."""
    sentences = []
    for name, device in devices.items():
        both = [r for r in rows if r["device"] == name and r["pass"] == "forward+backward"]
        best = [r for r in both if r["best"]]
        names = [r["backend"] for r in best]
        counts = ", ".join(f"{backend} in {names.count(backend)}" for backend in BACKENDS if backend in names)
        ratio = max(auto["ms"] / b["ms"] for auto, b in zip((r for r in both if r["auto"]), best))
        kernels = {backend: max(r["kernels"] for r in both if r["backend"] == backend) for backend in BACKENDS}
        waits = {backend: max(r["waits"] for r in both if r["backend"] == backend) for backend in BACKENDS}
        handed = ", ".join(f"{backend} {kernels[backend]} and {waits[backend]}" for backend in BACKENDS)
        sentences.append(
            f"{name} ({device.dtype}): auto takes {auto_backend(device)}, at most {ratio:.2f} x the best; best of "
            f"{len(best)} lines: {counts}. Most kernels of a pass forward and back, and waits: {handed}."
        )
    return sentences


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="+", choices=list(DEVICES), default=list(DEVICES), help="GPUs")
    parser.add_argument("--configs", nargs="+", choices=list(CONFIGS), default=CONFIGURATIONS, help="layers")
    parser.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS), help="B T (default: 2048 8192 32768)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser


def main(words=None) -> None:
    """Reckons and prints."""
    words = sys.argv[1:] if words is None else [str(word) for word in words]
    parser = make_parser()
    options = parser.parse_args(words)
    if min(options.tokens) < 1:
        parser.error(f"--tokens {min(options.tokens)}: expected positive numbers")
    devices = {name: DEVICES[name] for name in options.devices}
    rows = []
    for name in options.configs:
        for tokens in options.tokens:
            rows += rows_of(name, CONFIGS[name], tokens, devices)
    rows.sort(key=lambda row: list(devices).index(row["device"]))
    print(table(rows), *conclusions(rows, devices), sep="\n")
    if options.json is not None:
        content = {
            "rows": rows,
            "skipped": [],
            "devices": {name: dataclasses.asdict(device) for name, device in devices.items()},
            "assumptions": ASSUMPTIONS,
            "torch": torch.__version__,
            "command": ["benchmarks/expected.py", *words],
            "commit": commit(),
        }
        write_json(options.json, content)


if __name__ == "__main__":
    main()
