"""Benchmarks of lm-evaluation-harness for a checkpoint of ours.

    mhmoe-lm-eval --checkpoint runs/x/checkpoint_best.pt --tasks mhmoe_zero_shot --output runs/x/lm-eval
    mhmoe-lm-eval --checkpoint runs/x/checkpoint_best.pt --tasks openbookqa,piqa --local-data data/zero-shot
    torchrun --nproc-per-node 8 -m fairseq_mhmoe.cli.lm_eval --checkpoint ... --tasks mhmoe_xnli

Prints the harness's table; --output writes results.json (figures with their standard errors, what was asked of which
model), results.md and with --samples each request with its answer. Exit status: 0, or 2 if the command asks for what
can't be.
"""

import argparse
import functools
import importlib.util
import json
import logging
import os
import sys
from pathlib import Path

from fairseq_mhmoe.cli.files import write_bytes, write_json
from fairseq_mhmoe.cli.messages import warnings_only
from fairseq_mhmoe.cli.user_dir import add_user_dir

DTYPES = ("float32", "bfloat16", "float16")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="mhmoe-lm-eval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help=".pt file, written by any number of ranks")
    add("--data", type=Path, help="prepared folder with dictionary and tokenizer (default: the one it was trained on)")
    add(
        "--tasks",
        required=True,
        help="names of tasks or groups with commas between: any of the harness, mhmoe_zero_shot, mhmoe_xnli, "
        "mhmoe_xnli_paper, mhmoe_demonstration, or YAML files",
    )
    add("--local-data", type=Path, help="folder with <task>/<split>.jsonl; its tasks need no network")
    add("--num-fewshot", type=int, help="examples before each question (default: what each task says, mostly 0)")
    add("--limit", type=float, help="first records of each task, or below 1 a share of them: for trials only")
    add("--batch-size", type=int, help="sequences of a batch (default: as many as make 8192 tokens)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: the GPU if there is one)")
    add("--dtype", choices=DTYPES, default="float32", help="of the weights (default: %(default)s)")
    add("--seed", type=int, default=1234, help="of the examples and of sampled texts (default: %(default)s)")
    add("--cache", type=Path, help="file of answers, JSON lines: what is in it is not computed again")
    add_user_dir(parser)
    add("--output", type=Path, help="folder for results.json and results.md")
    add("--samples", action="store_true", help="write OUTPUT/samples/<task>.jsonl too: each record with its answers")
    return parser


def check(arguments: argparse.Namespace) -> list[str]:
    """Names of the tasks; ValueError for an option that can't be."""
    names = [name.strip() for name in arguments.tasks.split(",") if name.strip()]
    if not names:
        raise ValueError(
            f"--tasks {arguments.tasks!r}: expected names with commas between, for example mhmoe_zero_shot"
        )
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise ValueError(f"--batch-size {arguments.batch_size}: expected 1 or more")
    if arguments.num_fewshot is not None and arguments.num_fewshot < 0:
        raise ValueError(f"--num-fewshot {arguments.num_fewshot}: expected 0 or more")
    limit = arguments.limit
    if limit is not None and not (0 < limit < 1 or (limit >= 1 and limit == int(limit))):
        raise ValueError(f"--limit {limit:g}: expected a number of records, or a share of them above 0 and below 1")
    if arguments.samples and arguments.output is None:
        raise ValueError("--samples needs a folder to write to: add --output")
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError("lm-evaluation-harness is not installed: pip install 'fairseq-mhmoe[analysis]'")
    return list(dict.fromkeys(names))


def run(arguments: argparse.Namespace, names: list[str], cfg) -> None:
    """Evaluate, as one process or as one rank of a job."""
    import torch

    from fairseq_mhmoe.evaluation.harness import HarnessModel
    from fairseq_mhmoe.evaluation.harness_run import Questions
    from fairseq_mhmoe.evaluation.harness_run import run as evaluate
    from fairseq_mhmoe.evaluation.loading import load_checkpoint

    device = "cpu" if cfg.common.cpu else f"cuda:{cfg.distributed_training.device_id}"
    loaded = load_checkpoint(arguments.checkpoint, arguments.data, device)
    loaded.model.to(getattr(torch, arguments.dtype))
    limit = arguments.limit if arguments.limit is None or arguments.limit < 1 else int(arguments.limit)
    questions = Questions(names, arguments.local_data, arguments.num_fewshot, limit, arguments.seed)
    model = HarnessModel(loaded, arguments.batch_size, arguments.cache, arguments.seed)
    try:
        found = evaluate(model, questions)
    finally:
        model.cache.close()
    if model.job[0] == 0:
        tell(found, arguments)


def tell(found: dict, arguments: argparse.Namespace) -> None:
    """Print the table, and write the files."""
    from lm_eval.utils import make_table

    samples = found.pop("samples")
    tables = [make_table(found)] + ([make_table(found, "groups")] if found.get("groups") else [])
    text = "\n".join(tables)
    print(text)
    counts = found["computed"]
    print(f"{counts['computed']} answers computed, {counts['cached']} from the cache; {found['seconds']} s")
    if arguments.output is None:
        return
    if arguments.samples:
        for task, records in samples.items():
            lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            write_bytes(arguments.output / "samples" / f"{task}.jsonl", lines.encode())
    write_bytes(arguments.output / "results.md", text.encode())
    write_json(arguments.output / "results.json", found)
    print(f"written: {arguments.output / 'results.json'}")


def configuration(device: str):
    """fairseq's configuration, as far as it says how processes find each other and on what they compute."""
    import torch
    from fairseq.dataclass.configs import FairseqConfig
    from omegaconf import OmegaConf

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no GPU here; leave it out")
    cfg = OmegaConf.structured(FairseqConfig)
    cfg.model = None  # the checkpoint has it
    cfg.common.cpu = device == "cpu" or not torch.cuda.is_available()
    cfg.distributed_training.distributed_world_size = 1  # unless a launcher says otherwise
    return cfg


def main(words: list[str] | None = None) -> int:
    """Command line; returns the exit status and says errors in one line."""
    arguments = make_parser().parse_args(words)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # a bar for each file of records says nothing
    if words is None:
        warnings_only()
    try:
        names = check(arguments)
        from fairseq.distributed import utils as distributed_utils

        import fairseq_mhmoe  # noqa: F401  so that launchers are understood

        cfg = configuration(arguments.device)
        try:
            distributed_utils.call_main(cfg, functools.partial(start, arguments, names))
        except SystemExit:
            return 2  # the error has been told, by the rank that met it
    except (ValueError, OSError) as error:
        print(f"mhmoe-lm-eval: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def start(arguments: argparse.Namespace, names: list[str], cfg) -> None:
    """`run`, with what fairseq and the harness log on the way kept out of the table."""
    logging.getLogger().setLevel(logging.WARNING)
    run(arguments, names, cfg)


if __name__ == "__main__":
    sys.exit(main())
