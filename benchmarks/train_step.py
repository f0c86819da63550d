"""What an update of a language model costs: real fairseq-train runs on the demonstration corpus, ours and torchscale's.

    python benchmarks/train_step.py --quick --json figures.json

Every run is a process of its own with one thread, the first updates are left out. On the CPU an update's time is the
process's CPU time, so that other work on the machine hardly counts; on a GPU it is the clock's. The models take turns,
there and back; figures are medians over updates, then over rounds, and ratios medians of the ratios within a round.
"""

import argparse
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import commit, describe
from malloc import GLIBC_TUNING, JEMALLOC_CONF, find_jemalloc
from step_models import NAMES, ROOT, STYLES, StepModel, step_models

from fairseq_mhmoe.cli.demo_models import SEQUENCES_PER_UPDATE, TOKENS_PER_SAMPLE, training_words, words_of
from fairseq_mhmoe.cli.demo_programs import FASTER_ON_THE_CPU, log_figures
from fairseq_mhmoe.cli.files import write_json

QUICK = dict(layers=4, rounds=1, updates=5, warmup=2)
# The demonstration's updates, and twice that: torchscale's dispatch grows with the square of an update's tokens.
SEQUENCES = [SEQUENCES_PER_UPDATE, 2 * SEQUENCES_PER_UPDATE]
TIMEOUT = 3600  # seconds of one run
BASELINE, PEER = "dense", "torchscale_xmoe"
# Environment of each allocator: glibc's as the demonstration sets it, jemalloc's as in the other benchmarks.
ALLOCATORS = {
    "plain": {},
    "glibc": {name: value for name, value in FASTER_ON_THE_CPU.items() if name.startswith("MALLOC_")},
    "jemalloc": {"LD_PRELOAD": find_jemalloc(), "MALLOC_CONF": JEMALLOC_CONF},
}
ALLOCATOR_VARIABLES = {name for settings in (*ALLOCATORS.values(), GLIBC_TUNING) for name in settings}


@dataclass(frozen=True)
class Run:
    """One training: which model with how many sequences an update, under which allocator."""

    model: StepModel
    sequences: int
    allocator: str


def training_command(model: StepModel, options, sequences: int, updates: int, folder: Path) -> list[str]:
    """Arguments of fairseq-train: the demonstration's training of this model, without validation and checkpoints."""
    words = {
        "save-dir": folder,
        "no-save": True,
        "disable-validation": True,
        "num-workers": 0,
        "batch-size": sequences,
        "log-format": "json",
        "log-interval": updates,
        "distributed-world-size": 1,
    }
    if options.device == "cpu":
        words["cpu"] = True
    if options.precision == "bf16":
        words["bf16"] = True
    shared = [str(options.data), "--user-dir", str(model.user_dir), *training_words(updates)]
    return [*shared, *model.words, *words_of(words)]


def environment_of(allocator: str) -> dict:
    """This environment with one thread and this allocator."""
    kept = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    return kept | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "LOGLEVEL": "INFO"} | ALLOCATORS[allocator]


def measure(run: Run, options) -> dict:
    """Train once; medians of the updates after the warm-up.

    Raises:
        RuntimeError: the training failed; with the end of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        program = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "step_train.py"), str(figures)]
        words = training_command(run.model, options, run.sequences, options.warmup + options.updates, Path(folder))
        done = subprocess.run(
            [*program, *words],
            cwd=ROOT,
            env=environment_of(run.allocator),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )
        if done.returncode != 0 or not figures.exists():
            raise RuntimeError(f"{run.model.name}: training ended with {done.returncode}\n{done.stdout[-3000:]}")
        found = json.loads(figures.read_text())
    counted = slice(options.warmup - 1, None)  # the first update has no time: its beginning is not noted
    clock = "cpu_ms" if options.device == "cpu" else "wall_ms"
    losses = [line for text in done.stdout.splitlines() if (line := log_figures(text, "train_inner"))]
    return {
        "ms": statistics.median(found[clock][counted]),
        **{name: statistics.median(found[name][counted]) for name in ("wall_ms", "system_ms", "page_faults", "tokens")},
        "peak_mib": found["peak_mib"],
        "training_mib": found["peak_mib"] - (found["before_mib"] if options.device == "cpu" else 0),
        "allocator": found["allocator"],
        "nll_loss": float(losses[-1]["nll_loss"]) if losses else None,
    }


def row(run: Run, measured: dict[Run, list[dict]], options) -> dict:
    """The figures of one model: medians over rounds."""
    mine, cost = measured[run], run.model.cost

    def median(name):
        return statistics.median(result[name] for result in mine)

    def times(name):
        """Median over rounds of this run's time over that of another model, all else equal; None without it."""
        keys = {(other.model.name, other.sequences, other.allocator): other for other in measured}
        other = keys.get((name, run.sequences, run.allocator))
        if other is None:
            return None
        return statistics.median(a["ms"] / b["ms"] for a, b in zip(mine, measured[other], strict=True))

    peer = times(PEER)
    return {
        "model": run.model.name,
        "style": options.style,
        "dtype": {"fp32": "float32", "bf16": "bfloat16"}[options.precision],
        "allocator": mine[0]["allocator"],
        "tokens_per_update": round(median("tokens")),
        "ms": median("ms"),
        "ms_wall": median("wall_ms"),
        "ms_system": median("system_ms"),
        "page_faults": median("page_faults"),
        "tokens_per_s": 1000 * median("tokens") / median("ms"),
        "peak_mib": median("peak_mib"),
        "training_mib": median("training_mib"),
        "params": cost.params_total,
        "flops_per_token": cost.flops_per_token,
        "ratio_dense": times(BASELINE),
        "speedup_over_torchscale_xmoe": None if peer is None else 1 / peer,
        "nll_loss": mine[-1]["nll_loss"],
        "rounds_ms": [result["ms"] for result in mine],
    }


HEAD = (
    "| model | tokens/update | allocator | tokens/s | ms/update | in the kernel | page faults | peak MiB "
    "| training MiB | parameters | MFLOPs/token | time / dense | tokens/s / torchscale's X-MoE | nll bits |"
)


def table(rows: list[dict]) -> str:
    """The rows as Markdown."""
    lines = [HEAD, "|---|---:|---|" + "---:|" * 11]
    for r in rows:
        ratios = [r["ratio_dense"], r["speedup_over_torchscale_xmoe"], r["nll_loss"]]
        cells = [r["model"], str(r["tokens_per_update"]), r["allocator"], f"{r['tokens_per_s']:.0f}", f"{r['ms']:.1f}"]
        cells += [f"{r[name]:.0f}" for name in ("ms_system", "page_faults", "peak_mib", "training_mib")]
        cells += [f"{r['params'] / 1e6:.2f}M", f"{r['flops_per_token'] / 1e6:.1f}"]
        cells += ["-" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("width", 256, "model width, a multiple of 64"),
        ("layers", 8, "blocks; every second one is a MoE layer"),
        ("rounds", 3, "how often the models take turns"),
        ("updates", 12, "updates of a run that count"),
        ("warmup", 3, "updates before them"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: {default})")
    parser.add_argument(
        "--sequences", type=int, nargs="+", default=SEQUENCES, help=f"of {TOKENS_PER_SAMPLE} tokens in an update"
    )
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES), help="which of them (default: all)")
    parser.add_argument("--style", choices=list(STYLES), default="classic", help="of all models (default: %(default)s)")
    parser.add_argument("--allocators", nargs="+", choices=list(ALLOCATORS), help="default: jemalloc, else glibc")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda when there is one")
    parser.add_argument("--data", type=Path, default=ROOT / "data/demo-english", help="prepared folder")
    parser.add_argument("--quick", action="store_true", help="fewer layers, rounds and updates")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser


def parse(words: list[str]) -> argparse.Namespace:
    """The options, checked; --quick changes what was not given."""
    parser = make_parser()
    parser.set_defaults(**(QUICK if "--quick" in words else {}))
    options = parser.parse_args(words)
    counts = {"rounds": options.rounds, "updates": options.updates, "sequences": min(options.sequences)}
    for name, value in counts.items():
        if value < 1:
            parser.error(f"--{name} {value}: expected 1 or more")
    if options.warmup < 2:
        parser.error(f"--warmup {options.warmup}: expected 2 or more; the first update starts everything")
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    found = ALLOCATORS["jemalloc"]["LD_PRELOAD"]
    options.allocators = options.allocators or ["jemalloc" if found else "glibc"]
    if "jemalloc" in options.allocators and not found:
        parser.error("--allocators jemalloc: the library is not installed here; try plain and glibc")
    options.data = options.data.absolute()
    return options


def vocabulary_of(data: Path) -> int:
    """Size of the dictionary of a prepared folder; the demonstration's is prepared when it is missing.

    Raises:
        ValueError: there is no such folder.
    """
    manifest = data / "manifest.json"
    if not manifest.exists() and data == ROOT / "data/demo-english":
        program = [sys.executable, "-W", "ignore", "-m", "data_prep.demo_english", "--output", str(data)]
        subprocess.run(program, cwd=ROOT, check=True)
    if not manifest.exists():
        raise ValueError(f"--data {data}: no manifest.json there; name a folder that data_prep has written")
    return json.loads(manifest.read_text())["dictionary"]["size"]


def skipped(options) -> list[dict]:
    """What was asked for and can't be measured, with the reason."""
    peers = [name for name in options.models if name.startswith("torchscale_")]
    reason = "torchscale has neither SwiGLU experts nor RMSNorm nor rotary positions"
    return [{"config": name, "reason": reason} for name in peers] if options.style != "classic" else []


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    words = sys.argv[1:] if words is None else words
    options = parse(words)
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    try:
        models = step_models(
            options.models, options.style, options.width, options.layers, vocabulary_of(options.data)
        )
        runs = [Run(*of) for of in itertools.product(models, options.sequences, options.allocators)]
        measured = {run: [] for run in runs}
        for number in range(options.rounds):
            for run in runs if number % 2 == 0 else reversed(runs):
                measured[run].append(measure(run, options))
                ms = measured[run][-1]["ms"]
                name = f"{run.model.name}, {run.sequences} sequences, {run.allocator}"
                print(f"round {number + 1}: {name}: {ms:.1f} ms", file=sys.stderr, flush=True)
    except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
        sys.exit(f"error: {error}")
    rows = [row(run, measured, options) for run in runs]
    print(table(rows))
    print(f"width {options.width}, {options.layers} layers, style {options.style}")
    for entry in skipped(options):
        print(f"left out: {entry['config']}: {entry['reason']}")
    if options.json is not None:
        settings = {name: value for name, value in vars(options).items() if name not in ("json", "data")}
        content = {
            "rows": rows,
            "skipped": skipped(options),
            "settings": settings,
            "machine": describe(options.device) | {"threads": 1, "allocator": [r["allocator"] for r in rows][0]},
            "torch": torch.__version__,
            "command": ["python", "benchmarks/train_step.py", *words],
            "commit": commit(),
        }
        write_json(options.json, content)


if __name__ == "__main__":
    main()
