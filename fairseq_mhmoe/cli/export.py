"""Writes a checkpoint as a Hugging Face folder, and checks that it is the same model.

    mhmoe-export checkpoints/run/checkpoint_best.pt exported --format hf
    mhmoe-export checkpoints/run/checkpoint_best.pt exported --data data/demo-english-mix --dtype bfloat16

The folder loads with transformers: AutoModelForCausalLM.from_pretrained("exported", trust_remote_code=True). The
tokenizer comes from the data folder: the one that the checkpoint names, or --data. `mhmoe-checkpoint import` is the way
back.

Exit status: 0, 1 if a file can't be read or written, 2 if the command asks for what can't be.
"""

import argparse
import sys
from pathlib import Path

import torch

from fairseq_mhmoe.checkpoint.errors import DamagedCheckpoint, ForeignCheckpoint
from fairseq_mhmoe.cli.messages import warnings_only
from fairseq_mhmoe.export.hf_folder import new_folder, write_folder
from fairseq_mhmoe.export.source import load_source

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def export(
    checkpoint: Path, target: Path, data: Path | None, dtype: str, max_shard_bytes: int, force=False, check=True
):
    """Write the folder; ValueError and OSError say why that can't be."""
    need_libraries()
    with new_folder(target, force) as folder:
        source = load_source(checkpoint, data)
        write_folder(source, folder, DTYPES[dtype], max_shard_bytes, say)
        if source.tokenizer is None:
            reason = "its data folder has none" if source.dictionary else "no data folder; name it with --data"
            say(f"no tokenizer: {reason}")
        if check:
            run_checks(source, folder, dtype)
    say(f"written: {target}")


def run_checks(source, folder: Path, dtype: str) -> None:
    """Hold the folder against the checkpoint and print what came out."""
    from fairseq_mhmoe.export.checking import check_logits, check_tokenizer

    found = check_logits(source, folder, exact=dtype == "float32")
    say(f"checked: logits differ from fairseq's by {found.largest:.2g} at most; the largest is {found.logits:.3g}")
    if source.tokenizer is not None:
        say(f"checked: {check_tokenizer(source, folder)} texts have the same tokens as in training")


def need_libraries() -> None:
    """ValueError where safetensors or transformers is not installed."""
    try:
        import safetensors  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed; pip install 'fairseq-mhmoe[export]'") from None


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="mhmoe-export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a .pt file, written by any number of ranks"
    )
    result.add_argument("target", type=Path, metavar="OUT", help="folder to be made")
    result.add_argument("--format", choices=["hf"], default="hf", help="hf: Hugging Face (default)")
    result.add_argument("--data", type=Path, help="prepared folder with the tokenizer (default: the checkpoint's)")
    result.add_argument("--dtype", choices=sorted(DTYPES), default="float32", help="of the weights (default: float32)")
    result.add_argument("--max-shard-gb", type=float, default=5.0, help="most gigabytes of a file (default: 5)")
    result.add_argument("--force", action="store_true", help="replace OUT if it is a model's folder")
    result.add_argument("--no-check", action="store_true", help="do not compare the folder with the checkpoint")
    return result


def main(arguments=None) -> int:
    """Command line; returns the exit status and says errors in one line."""
    args = parser().parse_args(arguments)
    if arguments is None:
        warnings_only()
    try:
        if not args.max_shard_gb > 0:
            raise ValueError(f"--max-shard-gb {args.max_shard_gb}: expected a positive number")
        size = max(1, int(args.max_shard_gb * 1e9))
        export(args.checkpoint, args.target, args.data, args.dtype, size, args.force, not args.no_check)
        return 0
    except (ValueError, OSError) as error:
        print(f"mhmoe-export: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, (DamagedCheckpoint, ForeignCheckpoint, OSError)) else 2


if __name__ == "__main__":
    sys.exit(main())
