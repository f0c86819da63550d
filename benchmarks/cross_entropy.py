"""Time and memory of output layer and cross entropy, forward and backward: all tokens at once, and by chunks.

    python benchmarks/cross_entropy.py --quick --json figures.json

  plain           logits [S, V], log-softmax in float32 and nll_loss, as fairseq's models and criteria do
  chunked         --chunked-cross-entropy with --cross-entropy-chunk C
  own             the same without torch's linear_cross_entropy; in half precision that is `chunked` itself
Variants take turns in one process, on the CPU in CPU time with one thread; ms are medians. peak_mib is what a first
pass needs beside features and weight, the weight's gradient [V, D] included, measured in a process of its own.
ratio_plain, memory_ratio (how many times less) and gradient_error (of features and weight, relative) are against plain.
A plain loss that would not fit into the memory available is skipped.

S tokens, V vocabulary, D model width, C tokens of a chunk.
"""

import argparse
import itertools
import multiprocessing
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from machine import commit, describe
from malloc import add_allocator_option, restart_under_allocator
from timing import time_once

from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.criterions.chunked_cross_entropy import chunked_cross_entropy, own_chunked_cross_entropy

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FULL = dict(vocabularies=[8192, 65536, 250000], widths=[256, 768], tokens=4096, chunks=[256, 1024], seconds=60.0)
QUICK = dict(vocabularies=[8192, 65536], widths=[256], tokens=1024, chunks=[256], seconds=8.0)
PAD = 1
MIB = 2**20
# Of one of the S x V numbers at the worst moment: log-probabilities and two gradients, float32, and half logits or one
# more in half precision.
PLAIN_BYTES = {"fp32": 12, "bf16": 14, "fp16": 14}

Key = Tuple[str, Optional[int]]  # variant, C


@dataclass(frozen=True)
class Case:
    """Sizes and type of one output layer."""

    vocabulary: int
    width: int
    tokens: int
    dtype: str


class Loss:
    """One way to compute the loss of a case; what timing.measure runs."""

    def __init__(self, case: Case, variant: str, chunk: Optional[int], device: torch.device):
        generator = torch.Generator().manual_seed(0)
        kind = dict(device=device, dtype=DTYPES[case.dtype])
        scale = case.width**-0.5
        self.features = torch.randn(case.tokens, case.width, generator=generator).to(**kind).requires_grad_()
        self.weight = torch.randn(case.vocabulary, case.width, generator=generator).mul_(scale).to(**kind)
        self.weight.requires_grad_()
        self.target = torch.randint(2, case.vocabulary, (case.tokens,), generator=generator)
        self.target[::16] = PAD
        self.target = self.target.to(device)
        ways = {"plain": plain, "chunked": chunked_cross_entropy, "own": own_chunked_cross_entropy}
        self.way = ways[variant] if chunk is None else partial(ways[variant], chunk=chunk)

    def clear(self) -> None:
        """Forgets gradients."""
        self.features.grad = self.weight.grad = None

    def forward(self) -> torch.Tensor:
        """The loss."""
        return self.way(self.features, self.weight, self.target, PAD)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of features and weight."""
        loss.backward()


def plain(features, weight, target, ignore_index):
    """Sum of the losses, all tokens at once."""
    log_probs = F.log_softmax(F.linear(features, weight), dim=-1, dtype=torch.float32)
    return F.nll_loss(log_probs, target, ignore_index=ignore_index, reduction="sum")


def warm_up(case: Case, variant: str, chunk: Optional[int], device: torch.device) -> None:
    """Runs a tiny loss, so that the first large one does not pay for what torch loads when it is first used."""
    small = Loss(Case(64, 8, 32, case.dtype), variant, chunk, device)
    small.backward(small.forward())


def peak_mib(case: Case, variant: str, chunk: Optional[int], device: torch.device) -> Optional[float]:
    """Memory of one first pass, forward and backward; None where the system does not tell."""
    torch.set_num_threads(1)
    if device.type == "cpu" and not Path("/proc/self/status").exists():
        return None
    warm_up(case, variant, chunk, device)
    loss = Loss(case, variant, chunk, device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) / MIB
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        before = status_mib("VmRSS")
    loss.backward(loss.forward())
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB - before
    return status_mib("VmHWM") - before


def status_mib(field: str) -> float:
    """A figure of this process, of Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024


def in_own_process(function, *arguments):
    """Its result, from a copy of this process, which has not allocated anything large yet."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(function, *arguments).result()


def available_mib(device: torch.device) -> float:
    """Memory that a case may take; without end where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / MIB
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else ()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable")), float("inf"))


def plain_needs_mib(case: Case) -> float:
    """Memory of a plain loss, with a tenth to spare."""
    return 1.1 * case.tokens * case.vocabulary * PLAIN_BYTES[case.dtype] / MIB


def variants(case: Case, options, skipped: List[Dict]) -> List[Key]:
    """What to measure of a case, plain first; notes it in `skipped` where plain has not enough memory."""
    keys: List[Key] = [("plain", None), *(("chunked", chunk) for chunk in options.chunks)]
    if case.dtype == "fp32":
        keys.append(("own", options.chunks[0]))
    needed, free = plain_needs_mib(case), available_mib(options.device)
    if needed > free:
        reason = f"needs about {needed:.0f} MiB, {free:.0f} are free; fewer --tokens need less"
        skipped.append({**asdict(case), "variant": "plain", "reason": reason})
        return keys[1:]
    return keys


def run_case(case: Case, peaks: Dict[Key, Optional[float]], options) -> List[Dict]:
    """The rows of one case: times beside the peaks, which are measured already."""
    keys = list(peaks)
    losses = {key: Loss(case, *key, options.device) for key in keys}
    gradients = {}
    for key, loss in losses.items():
        warm_up(case, *key, options.device)
        time_once(loss, options.device)  # a first one that does not count
        gradients[key] = loss.features.grad, loss.weight.grad
        if key != keys[0]:
            gradients[key] = max(map(relative_error, gradients[key], gradients[keys[0]]))
        loss.clear()
    medians = median_times(losses, options)
    against = keys[0] if keys[0] == ("plain", None) else None

    def row(key):
        variant, chunk = key
        compared = against is not None and key != against
        return {
            **asdict(case),
            "variant": variant,
            "chunk": chunk,
            "ms": medians[key],
            "ratio_plain": medians[key] / medians[against] if against else None,
            "peak_mib": peaks[key],
            "memory_ratio": peaks[against] / peaks[key] if against and peaks[key] else None,
            "gradient_error": gradients[key] if compared else None,
        }

    return [row(key) for key in keys]


def median_times(losses: Dict[Key, Loss], options) -> Dict[Key, float]:
    """Milliseconds of each; they take turns until they have had their rounds or their seconds."""
    times: Dict[Key, List[float]] = {key: [] for key in losses}
    for turn in range(options.rounds):
        for key in list(losses) if turn % 2 == 0 else reversed(losses):
            if sum(times[key]) < 1000 * options.seconds:
                times[key].append(time_once(losses[key], options.device).total)
                losses[key].clear()
    return {key: statistics.median(found) for key, found in times.items()}


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm; in place, since these are large."""
    return (found.sub_(expected).norm() / expected.norm()).item()


def table(rows: List[Dict], skipped: List[Dict]) -> str:
    """The rows as text."""
    lines = ["| V | D | S | type | variant | C | ms | x plain | peak MiB | times less | gradient error |"]
    lines.append("|" + "---:|" * 11)
    for r in rows:
        cells = [r["vocabulary"], r["width"], r["tokens"], r["dtype"], r["variant"], r["chunk"], f"{r['ms']:.1f}"]
        formats = (("ratio_plain", ".2f"), ("peak_mib", ".0f"), ("memory_ratio", ".1f"), ("gradient_error", ".0e"))
        cells += ["" if r[name] is None else format(r[name], style) for name, style in formats]
        lines.append("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")
    return "\n".join([*lines, *(f"skipped: {entry}" for entry in skipped)])


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="small cases, in less than 2 minutes")
    add("--vocabularies", type=int, nargs="+", help="V (default: 8192 65536 250000, --quick the first two)")
    add("--widths", type=int, nargs="+", help="D (default: 256 768, --quick 256)")
    add("--tokens", type=int, help="S (default: 4096, --quick 1024)")
    add("--chunks", type=int, nargs="+", help="C (default: 256 1024, --quick 256)")
    add("--dtypes", choices=list(DTYPES), nargs="+", default=["fp32"], help="(default: fp32)")
    add("--rounds", type=int, default=7, help="times that every variant runs, at most (default: 7)")
    add("--seconds", type=float, help="what the rounds of one variant may take (default: 60, --quick 8)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: a GPU where there is one)")
    add("--json", type=Path, help="write the figures to this file too")
    add_allocator_option(parser)
    return parser


def parse(words: List[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = make_parser()
    options = parser.parse_args(words)
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for name in ("vocabularies", "widths", "tokens", "chunks", "rounds", "seconds"):
        value = getattr(options, name)
        least = 3 if name == "vocabularies" else 1
        for number in value if isinstance(value, list) else [value]:
            if number < least:
                parser.error(f"--{name} {number}: expected {least} or more")
    try:
        options.device = torch.device(options.device)
    except RuntimeError as error:
        parser.error(f"--device {options.device}: {error}")
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: torch finds no GPU here; expected cpu")
    return options


def main(words: Optional[List[str]] = None) -> None:
    """Measures and prints."""
    words = sys.argv[1:] if words is None else words
    options = parse(words)
    torch.set_num_threads(1)
    # A GPU counts what is allocated; processes are counted by their pages, so those come first, in copies of this one.
    measured = partial(in_own_process, peak_mib) if options.device.type == "cpu" else peak_mib
    sizes = itertools.product(options.vocabularies, options.widths, [options.tokens], options.dtypes)
    cases = [Case(*numbers) for numbers in sizes]
    skipped: List[Dict] = []
    plan = {case: variants(case, options, skipped) for case in cases}
    peaks = {case: {key: measured(case, *key, options.device) for key in keys} for case, keys in plan.items()}
    rows = [row for case in cases for row in run_case(case, peaks[case], options)]
    print(table(rows, skipped))
    if options.json is not None:
        figures = {"rows": rows, "skipped": skipped, "machine": describe(options.device)}
        figures.update(torch=torch.__version__, command=["benchmarks/cross_entropy.py", *words], commit=commit())
        write_json(options.json, figures)


if __name__ == "__main__":
    restart_under_allocator(parse(sys.argv[1:]).allocator)
    main()
