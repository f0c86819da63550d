"""Where the time of a training step goes: torch's profiler over a few updates of the models of train_step.py.

    python benchmarks/profile_step.py --models dense mhmoe_v2 --png parts.png --trace trace.json.gz --json parts.json

Prints the ten longest operations and the milliseconds of every part of the step, forward and backward together. On the
CPU the step's CPU time is shared out as the profiler saw it on the clock; the profiler itself makes small operations
longer, so take times of whole steps from train_step.py. On a GPU these are the kernels' times.
"""

import argparse
import itertools
import logging
import sys
import time
import warnings
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from fairseq import options as fairseq_options
from fairseq import tasks, utils
from fairseq.data.iterators import GroupedIterator
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import commit, describe
from malloc import restart_under_allocator
from step_models import NAMES, ROOT, STYLES, step_models
from step_parts import milliseconds_by_name, milliseconds_by_part, ranges
from train_step import training_command, vocabulary_of

from fairseq_mhmoe.cli.demo_models import SEQUENCES_PER_UPDATE, TOKENS_PER_SAMPLE
from fairseq_mhmoe.cli.files import write_json

TOP = 10


def build(model, options, folder: Path) -> tuple[Trainer, GroupedIterator]:
    """What fairseq-train would build for this model: its trainer and its batches."""
    utils.import_user_module(Namespace(user_dir=str(model.user_dir)))
    words = training_command(model, options, options.sequences, options.warmup + options.steps, folder)
    arguments = fairseq_options.parse_args_and_arch(fairseq_options.get_training_parser(), words)
    cfg = convert_namespace_to_omegaconf(arguments)
    metrics.reset()
    utils.set_torch_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    trainer = Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))
    epoch = trainer.get_train_iterator(epoch=1)
    trainer.begin_epoch(epoch.epoch)
    return trainer, GroupedIterator(epoch.next_epoch_itr(shuffle=True), 1)


def profile_model(model, options, trace: Path | None) -> dict:
    """Train, and profile the updates after the warm-up."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (options.device == "cuda")
    with TemporaryDirectory() as folder, metrics.aggregate("train_inner"):
        trainer, batches = build(model, options, Path(folder))
        for samples in itertools.islice(batches, options.warmup):
            trainer.train_step(samples)
        with ranges(trainer), profile(activities=activities) as profiler:
            start = time.process_time()
            for samples in itertools.islice(batches, options.steps):
                trainer.train_step(samples)
            cpu_ms = 1000 * (time.process_time() - start) / options.steps
    if trace is not None:
        trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(trace))
    on_device, events = options.device == "cuda", profiler.events()
    parts, operations = milliseconds_by_part(events, on_device), milliseconds_by_name(events, on_device)
    scale = 1 / options.steps if on_device else cpu_ms / sum(parts.values())
    return {
        "model": model.name,
        "style": options.style,
        "ms": scale * sum(parts.values()),
        "parts": {part: scale * ms for part, ms in parts.items()},
        "operations": [
            {"name": name, "ms": scale * ms, "calls": calls / options.steps} for name, ms, calls in operations[:TOP]
        ],
    }


def text(row: dict) -> str:
    """One model's figures as two Markdown tables."""

    def share(ms):
        return f"{ms:.1f} | {100 * ms / row['ms']:.1f} %"

    lines = [f"{row['model']}: {row['ms']:.1f} ms a step", "", "| operation | calls | self ms | share |"]
    lines += ["|---|---:|---:|---:|"]
    lines += [f"| {entry['name']} | {entry['calls']:.0f} | {share(entry['ms'])} |" for entry in row["operations"]]
    lines += ["", "| part of the step | ms | share |", "|---|---:|---:|"]
    lines += [f"| {part} | {share(ms)} |" for part, ms in row["parts"].items() if ms > 0]
    return "\n".join([*lines, ""])


def trace_path(path: Path | None, name: str, several: bool) -> Path | None:
    """Where a model's trace goes: trace.json.gz, or trace-dense.json.gz where there are several models."""
    if path is None or not several:
        return path
    stem, dot, ending = path.name.partition(".")
    return path.with_name(f"{stem}-{name}{dot}{ending}")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("width", 256, "model width, a multiple of 64"),
        ("layers", 8, "blocks; every second one is a MoE layer"),
        ("sequences", SEQUENCES_PER_UPDATE, f"of {TOKENS_PER_SAMPLE} tokens in an update"),
        ("steps", 3, "updates that are profiled"),
        ("warmup", 3, "updates before them"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: {default})")
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES), help="which of them (default: all)")
    parser.add_argument("--style", choices=list(STYLES), default="classic", help="of all models (default: %(default)s)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda when there is one")
    parser.add_argument("--data", type=Path, default=ROOT / "data/demo-english", help="prepared folder")
    parser.add_argument("--trace", type=Path, help="write Chrome traces, .json or .json.gz; the model's name is added")
    parser.add_argument("--png", type=Path, help="draw the parts")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser


def main() -> None:
    """Profile, print, and write what was asked for."""
    words = sys.argv[1:]
    parser = make_parser()
    options = parser.parse_args(words)
    for name in ("steps", "warmup", "sequences"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: expected 1 or more")
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    if options.png is not None:
        try:
            from step_picture import draw
        except ImportError as error:
            parser.error(f"--png: {error}; pip install matplotlib, or leave --png out")
    options.data = options.data.absolute()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    try:
        models = step_models(
            options.models, options.style, options.width, options.layers, vocabulary_of(options.data)
        )
        for model in models:
            rows.append(profile_model(model, options, trace_path(options.trace, model.name, len(models) > 1)))
            print(text(rows[-1]), flush=True)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    tokens = options.sequences * TOKENS_PER_SAMPLE
    title = f"One training step: width {options.width}, {options.layers} layers, {tokens} tokens, {options.precision}"
    if options.png is not None:
        draw(rows, title, options.png)
    if options.json is not None:
        write_json(
            options.json,
            {
                "rows": rows,
                "skipped": [],
                "machine": describe(options.device),
                "torch": torch.__version__,
                "command": ["python", "benchmarks/profile_step.py", *words],
                "commit": commit(),
            },
        )


if __name__ == "__main__":
    restart_under_allocator("auto")
    main()
