"""Which cases benchmarks/moe_layer.py measures, in which order, and what of them fits into the time.

How long a case takes is known before: its FLOPs over the rate of the bare products of a small layer, measured first.
"""

import argparse
import time
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from layer_cases import CONFIGS, Case, sweep_case
from layer_runs import ESSENTIAL, VARIANTS, WAYS, make_layer
from layer_table import LEFT_OUT
from layer_variants import OURS, BareProducts
from peers import PEERS
from timing import Times, time_once

Plan = List[Tuple[Case, Tuple[str, ...]]]

PRECISIONS = ("fp32", "bf16")  # fp16, for GPUs without bfloat16, when asked for
TOKENS = (256, 2048, 8192)
EXPERTS = (8, 64, 256)
SWEPT = ("b", "c", "e")  # configurations whose N is swept
SKEWED = ("zipf", "one")
QUICK_SECONDS = 250.0
SLACK = 1.3  # a run takes longer than its matrix products
WARM_UP = 4 / 3  # runs: a forward pass that counts what is kept, then both passes


def full_plan(options: argparse.Namespace) -> Plan:
    """Every configuration, number type and size asked for, then the sweep over N."""
    plan: Plan = [
        (Case(config, dtype, tokens), with_routing(VARIANTS))
        for config in options.configs or CONFIGS
        for dtype in options.dtypes or PRECISIONS
        for tokens in options.tokens or TOKENS
    ]
    for config in SWEPT:
        for dtype in options.dtypes or PRECISIONS:
            for experts in swept_experts(options):
                plan.append((sweep_case(config, dtype, experts, options.rows_per_expert), (*OURS, *ESSENTIAL[1:])))
    return asked_for(plan, options)


def quick_plan(options: argparse.Namespace) -> Plan:
    """The most telling cases, the more important ones first."""
    peers, all_routings = tuple(PEERS), with_routing(ESSENTIAL)
    plan: Plan = [(Case("b", "fp32", 2048), (*all_routings, "ours_recompute", *peers))]
    plan += [(Case(config, "fp32", 2048), (*all_routings, "ours_recompute", *peers)) for config in ("e", "e1")]
    plan += [(sweep_case("e", "fp32", n, options.rows_per_expert), ESSENTIAL) for n in swept_experts(options)]
    plan += [(Case(config, "fp32", 256), (*ESSENTIAL, *peers)) for config in ("a", "b", "c", "e", "e1")]
    plan += [(Case("c", "fp32", 2048), (*ESSENTIAL, *peers))]
    plan += [(Case(config, "bf16", 256), ESSENTIAL) for config in ("b", "c")]
    plan += [(Case("a", "fp32", 2048), (*ESSENTIAL, *peers)), (Case("a", "bf16", 256), ESSENTIAL)]
    plan += [(Case("d8", "fp32", 256), ESSENTIAL)]
    return asked_for(plan, options)


def with_routing(variants: Sequence[str]) -> Tuple[str, ...]:
    """The variants, and our layer under skewed routing too: the others' routers are left as they are."""
    return (*variants, *(f"ours@{routing}" for routing in SKEWED if "ours" in variants))


def swept_experts(options: argparse.Namespace) -> Sequence[int]:
    """Values of N in the sweep."""
    return EXPERTS if options.experts is None else options.experts


def asked_for(plan: Plan, options: argparse.Namespace) -> Plan:
    """What the options leave of a plan."""
    chosen: Plan = []
    for case, variants in plan:
        swept = case.num_experts is not None
        if options.configs and case.config not in options.configs:
            continue
        if options.dtypes and case.dtype not in options.dtypes:
            continue
        if not swept and options.tokens and case.tokens not in options.tokens:
            continue
        kept = tuple(variant for variant in variants if _is_asked_for(variant, options))
        if kept:
            chosen.append((case, kept))
    return chosen


def _is_asked_for(variant: str, options: argparse.Namespace) -> bool:
    name, _, routing = variant.partition("@")
    if options.variants and name not in options.variants:
        return False
    return not options.routing or name not in OURS or (routing or "balanced") in options.routing


def not_in_plan(options: argparse.Namespace) -> List[str]:
    """Values of options for which the plan has nothing, as words of the command line."""
    cases = [case for case, _ in options.plan]
    planned = {
        "configs": {case.config for case in cases},
        "dtypes": {case.dtype for case in cases},
        "tokens": {case.tokens for case in cases if case.num_experts is None},
        "variants": {variant.partition("@")[0] for _, variants in options.plan for variant in variants},
    }
    asked = [(name, value) for name in planned for value in getattr(options, name) or ()]
    return [f"--{name} {value}" for name, value in asked if value not in planned[name]]


class Budget:
    """Says what still fits, and keeps what does not with its reason."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.start = options, (time.perf_counter(), time.process_time())
        self.rates: Dict[str, Times] = {}

    def left_out(self) -> List[dict]:
        """What --quick leaves out of the full plan."""
        if not self.options.quick:
            return []
        planned = {case: set(variants) for case, variants in self.options.plan}
        entries = []
        for case, variants in full_plan(self.options):
            missing = [variant for variant in variants if variant not in planned.get(case, ())]
            if missing:
                entries.append({**case.keys, "variants": missing, "reason": LEFT_OUT})
        return entries

    def choose(self, case: Case, variants: Sequence[str]) -> Tuple[Tuple[str, ...], List[dict]]:
        """Those variants that fit, and the others with the reason."""
        run = self.run_seconds(case)
        if run > self.options.longest_run:
            reason = f"one run would take about {run:.0f} s, longer than --longest-run {self.options.longest_run:g}"
            return (), [{**case.keys, "variants": list(variants), "reason": reason}]
        left = self.left()
        essential = tuple(variant for variant in variants if variant in ESSENTIAL)
        for chosen in (tuple(variants), essential):
            fewest = (self.options.fewest_rounds if variant in ESSENTIAL else 1 for variant in chosen)
            needed = run * sum(count_runs([v]) * (WARM_UP + n) for v, n in zip(chosen, fewest))
            if left is None or needed <= left:
                break
        else:
            chosen = ()
        if len(chosen) == len(variants):
            return chosen, []
        reason = f"no time left for it in the {QUICK_SECONDS:.0f} s of --quick"
        missing = [variant for variant in variants if variant not in chosen]
        return chosen, [{**case.keys, "variants": missing, "reason": reason}]

    def seconds(self, case: Case, variants: Sequence[str]) -> float:
        """CPU or GPU seconds for the rounds of a case, behind its warm-up."""
        left = self.left()
        if left is None:
            return self.options.case_seconds
        warm_up = WARM_UP * count_runs(variants) * self.run_seconds(case)
        return max(min(self.options.case_seconds, left - warm_up), 0.0)

    def left(self) -> Optional[float]:
        """Seconds left, as CPU seconds of this process on a machine that others use too; None without a limit."""
        if not self.options.quick:
            return None
        wall, own = time.perf_counter() - self.start[0], time.process_time() - self.start[1]
        return (QUICK_SECONDS - wall) / max(wall / max(own, 1e-3), 1.0)

    def run_seconds(self, case: Case) -> float:
        """One forward and backward pass, estimated."""
        if case.dtype not in self.rates:
            self.rates[case.dtype] = measure_rates(case.dtype, self.options.device)
        per_flop = self.rates[case.dtype]
        return SLACK * case.forward_flops * per_flop.total / 1000


def measure_rates(dtype: str, device: torch.device) -> Times:
    """Milliseconds for one FLOP of the forward pass: of itself, and of the backward pass that it entails."""
    case = Case("e", dtype, 256)
    products = BareProducts(*make_layer(case, device), way="loop")
    first, second = (time_once(products, device) for _ in range(2))
    best = (min(pair) / case.forward_flops for pair in zip(first, second))
    return Times(*best)


def count_runs(variants: Sequence[str]) -> int:
    """Runs in one round."""
    return sum(len(WAYS.get(variant, ("",))) for variant in variants)
