"""One case of benchmarks/moe_layer.py: builds the variants, runs them in turns, makes the rows.

A variant is a name of VARIANTS, for our layer also with a routing: "ours@zipf". A run is a variant, or one way of it:
"bare/loop".
"""

import gc
import statistics
from typing import Callable, Dict, List, Sequence, Tuple

import torch
from layer_cases import DTYPES, Case, skew_routing
from layer_variants import FLOORS, LIMITS, OURS, BareProducts, DenseFFN, ModuleRun, build_ours
from peers import PEERS, Unsupported, note
from timing import Run, Times, measure, time_once
from torch import Tensor

from fairseq_mhmoe.moe import MoELayer

ESSENTIAL = ("ours", "bare", "dense_floor")
VARIANTS = (*ESSENTIAL, *[name for name in OURS if name not in ESSENTIAL], *PEERS)
WAYS = {"bare": LIMITS, "dense_floor": FLOORS}
PASSES: Dict[str, Callable[[Times], float]] = {
    "forward": lambda times: times.forward,
    "forward+backward": lambda times: times.total,
}
WEIGHT = 3  # the essential variants get this many times the seconds of others
SHORT = 500.0  # milliseconds
MIB = 2**20


def run_case(
    case: Case, variants: Sequence[str], device: torch.device, rounds: Tuple[int, int], seconds: float
) -> Tuple[List[dict], List[dict]]:
    """Measure the variants of one case.

    Args:
        case: what to measure.
        variants: names, see above.
        device: where.
        rounds: how often an essential variant runs at least, and every variant at most.
        seconds: what the rounds may take after a warm-up, if that is enough for the fewest.
    Returns:
        rows, and what could not be measured with its reason.
    """
    layer, x, grad = make_layer(case, device)
    runs: Dict[str, Run] = {}
    first: Dict[str, Times] = {}
    saved: Dict[str, float] = {}
    load: Dict[str, float] = {}
    skipped = []
    for variant in variants:
        try:
            built = build(variant, layer, x, grad)
            for name, run in built.items():
                if isinstance(run, ModuleRun):
                    saved[name] = run.saved_bytes() / MIB
                    if isinstance(run.module, MoELayer):
                        load[name] = load_max(run.module, x)
                first[name] = warm_up(run, device)
                run.clear()
            runs.update(built)
        except Unsupported as error:
            skipped.append({**case.keys, "variants": [variant], "reason": str(error)})
        except RuntimeError as error:  # out of memory, or what other people's code can't do here
            if not (variant in PEERS or isinstance(error, torch.OutOfMemoryError)):
                raise
            skipped.append({**case.keys, "variants": [variant], "reason": f"{type(error).__name__}: {error}"[:200]})
    weights = {name: WEIGHT if name.partition("/")[0] in ESSENTIAL else 1 for name in runs}
    share = {name: seconds * weight / sum(weights.values()) for name, weight in weights.items()}
    fewest, most = rounds
    least = {name: fewest if weight == WEIGHT else 0 for name, weight in weights.items()}
    times = measure(runs, first, device, most, share, least)
    del runs, layer
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return make_rows(case, times, saved, load), skipped


def warm_up(run: Run, device: torch.device) -> Times:
    """The time of a first run, or of a second one where the first was short: it may have loaded something."""
    times = time_once(run, device)
    return time_once(run, device) if times.total < SHORT else times


def make_layer(case: Case, device: torch.device) -> Tuple[MoELayer, Tensor, Tensor]:
    """Our layer, its input and a gradient of its output, all from one seed."""
    torch.manual_seed(0)
    layer = MoELayer(case.layer_config).to(device, DTYPES[case.dtype])
    x, grad = (torch.randn(case.shape).to(device, DTYPES[case.dtype]) for _ in range(2))
    return layer, x.requires_grad_(), grad


@torch.no_grad()
def load_max(layer: MoELayer, x: Tensor) -> float:
    """Load of the busiest expert over the mean."""
    load = layer(x)[3][: layer.config.num_experts]
    return float(load.max() / load.mean())


def build(variant: str, layer: MoELayer, x: Tensor, grad: Tensor) -> Dict[str, Run]:
    """The runs of a variant, by name."""
    if variant == "bare":
        return {f"bare/{way}": BareProducts(layer, x, grad, way) for way in LIMITS}
    if variant == "dense_floor":
        return {f"dense_floor/{way}": ModuleRun(DenseFFN(layer, way), x, grad) for way in FLOORS}
    if variant in PEERS:
        return {variant: ModuleRun(PEERS[variant](layer, x.shape), x, grad)}
    name, _, routing = variant.partition("@")
    ours = build_ours(name, layer)
    skew_routing(ours, x, routing or "balanced")
    return {variant: ModuleRun(ours, x, grad)}


def make_rows(
    case: Case, times: Dict[str, List[Times]], saved: Dict[str, float], load: Dict[str, float]
) -> List[dict]:
    """Rows of both passes, with their ratios; of several ways the fastest.

    Args:
        case: what was measured.
        times: of every run.
        saved: MiB kept for the backward pass, of those runs that keep any.
        load: load of the busiest expert over the mean, of runs of our layer.
    """
    rows = []
    for name, of_pass in PASSES.items():
        best: Dict[str, Tuple[float, str]] = {}
        for run, found in times.items():
            variant = run.partition("/")[0]
            measured = statistics.median(map(of_pass, found)), run
            best[variant] = min(best.get(variant, measured), measured)
        for variant, (ms, run) in best.items():
            base, _, routing = variant.partition("@")
            row = {**case.keys, "routing": routing or "balanced", "pass": name, "variant": base, "ms": ms}
            for ratio, of in (("ratio_dense", "dense_floor"), ("ratio_limit", "bare"), ("ratio_balanced", base)):
                row[ratio] = ms / best[of][0] if of in best else None
            row.update(saved_mib=saved.get(run), runs=len(times[run]))
            if base in OURS:
                row.update(backend=OURS[base].get("backend", "auto"), load_max=load[run])
            if base in WAYS:
                row["way"] = run.partition("/")[2]
            if base in PEERS and note(base, case.layer_config):
                row["note"] = note(base, case.layer_config)
            rows.append(row)
    return rows
