"""Time and memory of one MoE layer beside its bare matrix products, a dense FFN of its sizes, and other MoE layers.

    python benchmarks/moe_layer.py --quick --json figures.json

All variants of a case run in one process in turns, on the CPU in CPU time with one thread, and medians are printed:
  ours            MoELayer; ours_loop, ours_grouped_mm, ours_bmm: each back end; ours_recompute: recomputing activations
  bare            its matrix products alone, into memory allocated before: the limit (layer_variants.BareProducts)
  dense_floor     a dense FFN with the same matrices under eager autograd, no routing (layer_variants.DenseFFN)
  peers           torchscale, hf_eager, hf_grouped_mm, lucidrains, index_add_loop (peers/)
ratio_limit is a row's time over that of `bare`, ratio_dense over that of `dense_floor`, of the same case and pass.
saved_mib is what one forward pass keeps for the backward pass beside parameters and input. The backward pass starts at
the output y; the balance loss is computed, not differentiated. What is not measured is listed with its reason.
"""

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import List, Optional

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from layer_cases import CONFIGS, DTYPES, ROUTING, Case
from layer_plan import Budget, full_plan, not_in_plan, quick_plan
from layer_runs import VARIANTS, run_case
from layer_table import list_of_skipped, table
from machine import commit, describe
from malloc import add_allocator_option, restart_under_allocator

from fairseq_mhmoe.cli.files import write_json

DEFAULTS = {"case_seconds": 60.0, "longest_run": 60.0, "rounds": 20}
QUICK_DEFAULTS = {"case_seconds": 12.0, "longest_run": 6.0, "rounds": 6}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="the most telling cases, in less than 5 minutes")
    add("--configs", nargs="+", choices=list(CONFIGS), help="layers (default: all)")
    add("--tokens", nargs="+", type=int, help="tokens (default: 256 2048 8192)")
    add("--dtypes", nargs="+", choices=list(DTYPES), help="(default: fp32 bf16)")
    add("--routing", nargs="+", choices=ROUTING, help="of our layer; the others keep the balanced one (default: all)")
    add("--variants", nargs="+", choices=VARIANTS, help="(default: all)")
    add("--experts", nargs="*", type=int, help="N in the sweep over it, or nothing for no sweep (default: 8 64 256)")
    add("--rows-per-expert", type=int, default=128, help="of the sweep, at least (default: 128)")
    add("--rounds", type=int, help="times that a variant runs, at most (default: 20, --quick 6)")
    add("--case-seconds", type=float, help="what the rounds of one case may take (default: 60, --quick 12)")
    add("--longest-run", type=float, help="cases with runs above these seconds are skipped (default: 60, --quick 6)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: a GPU where there is one)")
    add("--json", type=Path, help="write the figures to this file too")
    add_allocator_option(parser)
    return parser


def parse(words: List[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = make_parser()
    options = parser.parse_args(words)
    for name in ("tokens", "experts", "rows_per_expert", "rounds", "case_seconds", "longest_run"):
        given = getattr(options, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and value <= 0:
                parser.error(f"--{name.replace('_', '-')} {value}: expected a positive number")
    try:
        options.device = torch.device(options.device)
    except RuntimeError as error:
        parser.error(f"--device {options.device}: {error}")
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: torch finds no GPU here; expected cpu")
    try:
        options.plan = (quick_plan if options.quick else full_plan)(options)
        for case, _ in options.plan:
            case.check()
    except ValueError as error:
        parser.error(str(error))
    missing = not_in_plan(options)
    if missing or not options.plan:
        parser.error(f"{', '.join(missing) or 'these options'}: nothing to measure" + " with --quick" * options.quick)
    defaults = QUICK_DEFAULTS if options.quick else DEFAULTS
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.fewest_rounds = min(options.rounds, 2 if options.quick else 3)
    return options


def warm_up(device: torch.device) -> None:
    """Runs a tiny layer, so that the first case does not pay for what torch loads when it is first used."""
    run_case(Case("e1", "fp32", 16), ("ours", "dense_floor"), device, rounds=(1, 1), seconds=1.0)


def main(words: Optional[List[str]] = None) -> None:
    """Measures and prints."""
    words = sys.argv[1:] if words is None else words
    options = parse(words)
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.WARNING)
    budget = Budget(options)
    warm_up(options.device)
    figures = {"rows": [], "skipped": budget.left_out(), "machine": describe(options.device)}
    figures.update(torch=torch.__version__, command=["benchmarks/moe_layer.py", *words], commit=commit())
    rounds = options.fewest_rounds, options.rounds
    for case, variants in options.plan:
        chosen, missing = budget.choose(case, variants)
        figures["skipped"] += missing
        if chosen:
            begin = time.perf_counter()
            rows, refused = run_case(case, chosen, options.device, rounds, budget.seconds(case, chosen))
            figures["rows"] += rows
            figures["skipped"] += refused
            print(table(rows), f"({time.perf_counter() - begin:.0f} s)", "", sep="\n", flush=True)
        if options.json is not None:  # after every case, so that a run that is cut short leaves what it has
            write_json(options.json, figures)
    print(list_of_skipped(figures["skipped"]))


if __name__ == "__main__":
    restart_under_allocator(parse(sys.argv[1:]).allocator)
    main()
