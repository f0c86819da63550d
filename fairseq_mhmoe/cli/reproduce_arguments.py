"""The command line of a reproduction, and what it asks for."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fairseq_mhmoe.cli.reproduce_comparisons import PARITIES
from fairseq_mhmoe.cli.reproduce_settings import (
    CORPORA,
    SEEDS,
    Scale,
    find_scale,
    parse_changes,
    parse_learning_rates,
)

ABLATIONS = ("heads", "components", "depth")


@dataclass(frozen=True)
class Request:
    """What to train, with what and where."""

    corpus: str
    comparison: str
    parity: str
    scale: Scale
    seeds: tuple[int, ...]
    models: tuple[str, ...]  # empty: all
    data: Path
    prepare: bool  # the data are ours to make
    output: Path
    device: str
    jobs: int
    fresh: bool
    plan_only: bool


def make_parser(description: str = "") -> argparse.ArgumentParser:
    """The command line of scripts/reproduce.sh."""
    parser = argparse.ArgumentParser(
        prog="bash scripts/reproduce.sh",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("corpus", nargs="?", choices=CORPORA, default="english", help="default: %(default)s")
    what = parser.add_argument_group("what is compared")
    what.add_argument("--paper", choices=("v1", "v2"), default="v1", help="whose table 1 (default: v1)")
    what.add_argument("--ablation", choices=ABLATIONS, help="instead of table 1: v1's table 5, table 6, or n = 0..3")
    what.add_argument(
        "--parity", choices=PARITIES, help="MH-MoE has X-MoE's parameters (default), or its FLOPs and parameters"
    )
    what.add_argument(
        "--models", nargs="+", default=[], metavar="M", help="only these, by name or family: xmoe mhmoe-8"
    )
    what.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="S", help="default: %(default)s")
    size = parser.add_argument_group("at which size")
    size.add_argument("--full", action="store_true", help="larger models, more tokens, 8 and 32 experts: for a GPU")
    size.add_argument(
        "--experts", nargs="+", type=int, metavar="N", help="of X-MoE or SMoE; several for a scaling plot"
    )
    size.add_argument("--tokens", type=int, metavar="N", help="that each model sees")
    size.add_argument(
        "--learning-rate", nargs="+", default=[], metavar="X", help="of all, or by family: 2e-3 mhmoe=3e-3"
    )
    size.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="any setting of the table: width=256 heads=4"
    )
    where = parser.add_argument_group("where")
    where.add_argument("--data", type=Path, metavar="FOLDER", help="prepared folder (default: one made from packages)")
    where.add_argument("--name", help="of the results (default: says corpus, size and comparison)")
    where.add_argument("--output", type=Path, metavar="FOLDER", help="default: runs/reproduce/NAME")
    where.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )
    where.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: one per core; one on a GPU)")
    where.add_argument("--fresh", action="store_true", help="train anew what was begun with other settings or code")
    where.add_argument("--plan", action="store_true", help="print models, cost and commands, and end")
    return parser


def parse_request(parser: argparse.ArgumentParser, words: Sequence[str]) -> Request:
    """What the words ask for; ends the program with status 2 and one line if that can't be."""
    given = parser.parse_args(words)
    try:
        return make_request(given)
    except ValueError as error:
        parser.error(str(error))


def make_request(given: argparse.Namespace) -> Request:
    """From the options to what is done.

    Raises:
        ValueError: options that contradict each other, or a value that can't be.
    """
    comparison = given.ablation or ("v2" if given.paper == "v2" else "table1")
    if given.ablation and given.paper == "v2":
        raise ValueError("--ablation: heads, components and depth are tables of v1; leave out --paper v2")
    if given.paper == "v2" and given.parity == "params":
        raise ValueError("--parity params: v2 compares at equal FLOPs and parameters; leave it out")
    changes = parse_changes(given.set) | parse_learning_rates(given.learning_rate)
    if given.tokens is not None:
        changes["tokens"] = given.tokens
    if given.experts is not None:
        changes["experts"] = tuple(given.experts)
    scale = find_scale(given.corpus, given.full, comparison, changes)
    if comparison != "table1" and len(scale.experts) > 1 and given.experts is not None:
        raise ValueError(f"--experts {' '.join(map(str, scale.experts))}: several numbers are for table 1 of v1")
    if len(set(given.seeds)) < len(given.seeds) or min(given.seeds) < 0:
        raise ValueError(f"--seeds {' '.join(map(str, given.seeds))}: expected different numbers of 0 or more")
    device = given.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU; take cpu, or check nvidia-smi and torch's build")
    jobs = given.jobs
    if jobs is None:
        jobs = (os.cpu_count() or 1) if device == "cpu" else 1
    if jobs < 1:
        raise ValueError(f"--jobs {jobs}: expected 1 or more")
    parity = "flops" if comparison == "v2" else given.parity or "params"
    if given.name and given.output:
        raise ValueError("--name and --output both say where results go; leave out one of them")
    if given.name is not None and (not given.name or Path(given.name).name != given.name):
        raise ValueError(f"--name {given.name!r}: expected a name without slashes; --output takes a path")
    name = given.name or default_name(given.corpus, given.full, comparison, given.parity)
    return Request(
        corpus=given.corpus,
        comparison=comparison,
        parity=parity,
        scale=scale,
        seeds=tuple(given.seeds),
        models=tuple(given.models),
        data=given.data or Path(scale.data),
        prepare=given.data is None,
        output=given.output or Path("runs/reproduce") / name,
        device=device,
        jobs=jobs,
        fresh=given.fresh,
        plan_only=given.plan,
    )


def default_name(corpus: str, full: bool, comparison: str, parity: str | None) -> str:
    """english, multilingual-full, english-v2, english-heads-flops, ..."""
    parts = [corpus, "full" if full else "", "" if comparison == "table1" else comparison]
    return "-".join(filter(None, [*parts, "flops" if parity == "flops" and comparison != "v2" else ""]))
