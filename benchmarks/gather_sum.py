"""Ways to add up the K rows of each sub-token, weighted by its gates: the combine step of a MoE layer, forward.

    python benchmarks/gather_sum.py --device cuda --dtype bfloat16 --json gather_sum.json

MoELayer takes embedding_bag, which is the best on CPUs. On GPUs its kernel reads a few bytes per thread, and nobody has
measured whether plain gathers are faster: this tells. GB/s counts what has to move, S (K + 1) d numbers.

S sub-tokens, K choices, d width.
"""

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.benchmark import Timer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from layer_cases import CONFIGS
from machine import commit, describe

from fairseq_mhmoe.cli.files import write_json


def embedding_bag(rows, index, gates):
    """One kernel."""
    return F.embedding_bag(index, rows, mode="sum", per_sample_weights=gates)


def gather_and_sum(rows, index, gates):
    """All rows, times gates, summed: three kernels."""
    taken = rows.index_select(0, index.view(-1)).view(*index.shape, -1)
    return taken.mul_(gates.unsqueeze(-1)).sum(1)


def gather_by_choice(rows, index, gates):
    """One gather and one addition for each of the K choices."""
    out = rows.index_select(0, index[:, 0]).mul_(gates[:, :1])
    for k in range(1, index.shape[1]):
        out.addcmul_(rows.index_select(0, index[:, k]), gates[:, k : k + 1])
    return out


def gather_and_multiply(rows, index, gates):
    """All rows, then a batch of [1, K] x [K, d] products."""
    taken = rows.index_select(0, index.view(-1)).view(*index.shape, -1)
    return torch.bmm(gates.unsqueeze(1), taken).squeeze(1)


WAYS = (embedding_bag, gather_and_sum, gather_by_choice, gather_and_multiply)


def measure(name: str, tokens: int, options) -> list:
    """One line for each way."""
    config, dtype = CONFIGS[name], getattr(torch, options.dtype)
    sub_tokens, top_k = tokens * config.heads, config.top_k
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(sub_tokens * top_k, config.d_sub, generator=generator).to(options.device, dtype)
    index = torch.randperm(sub_tokens * top_k, generator=generator).view(sub_tokens, top_k).to(options.device)
    gates = torch.rand(sub_tokens, top_k, generator=generator).to(options.device, dtype)
    moved = sub_tokens * (top_k + 1) * config.d_sub * dtype.itemsize
    found = []
    for way in WAYS:
        timer = Timer("way(rows, index, gates)", globals=dict(way=way, rows=rows, index=index, gates=gates))
        seconds = timer.blocked_autorange(min_run_time=options.seconds).median
        found.append(
            {
                "config": name,
                "dtype": options.dtype,
                "tokens": tokens,
                "variant": way.__name__,
                "ms": 1e3 * seconds,
                "gb_per_s": moved / seconds / 1e9,
            }
        )
    return found


def main(words=None) -> None:
    """Measures and prints."""
    words = sys.argv[1:] if words is None else [str(word) for word in words]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", choices=list(CONFIGS), default=["a", "b", "c"], help="layers")
    parser.add_argument("--tokens", nargs="+", type=int, default=[8192], help="B T (default: 8192)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement (default: 0.5)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args(words)
    for name, values in (("tokens", options.tokens), ("seconds", [options.seconds])):
        if min(values) <= 0:
            parser.error(f"--{name} {min(values)}: expected positive numbers")
    torch.set_num_threads(1)
    rows = [row for name in options.configs for tokens in options.tokens for row in measure(name, tokens, options)]
    for row in rows:
        print(f"{row['config']} {row['tokens']} {row['variant']:<20} {row['ms']:9.3f} ms {row['gb_per_s']:8.1f} GB/s")
    if options.json is not None:
        content = {"rows": rows, "skipped": [], "machine": describe(options.device), "torch": torch.__version__}
        write_json(options.json, {**content, "command": ["benchmarks/gather_sum.py", *words], "commit": commit()})


if __name__ == "__main__":
    main()
