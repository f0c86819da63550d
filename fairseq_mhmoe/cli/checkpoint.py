"""Checks checkpoints, prints what is in them, and converts them: one file, shards of experts, Hugging Face folders.

    mhmoe-checkpoint verify checkpoints/run
    mhmoe-checkpoint info checkpoints/run/checkpoint_best.pt --verbose
    mhmoe-checkpoint merge checkpoints/run/checkpoint_best.pt one_file.pt
    mhmoe-checkpoint split one_file.pt sharded/checkpoint.pt --size 4
    mhmoe-checkpoint import exported one_file.pt --data data/demo-english-mix

Exit status: 0, 1 if a file is damaged or refused or can't be read or written, 2 if the command asks for what can't be.
"""

import argparse
import sys
from pathlib import Path

from fairseq_mhmoe.checkpoint.converting import merge, split
from fairseq_mhmoe.checkpoint.errors import DamagedCheckpoint, ForeignCheckpoint
from fairseq_mhmoe.checkpoint.reading import verify
from fairseq_mhmoe.checkpoint.summary import summary
from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.cli.messages import warnings_only


def verify_paths(paths) -> int:
    """Prints a line for each checkpoint, "ok: FILE" or what is wrong with it; returns the exit status."""
    status = 0
    for path in [file for place in paths for file in _checkpoints(place)]:
        try:
            verify(path)
            print(f"ok: {path}", flush=True)
        except DamagedCheckpoint as error:
            print(f"damaged: {_for(path, error.file)}: {error.reason}", flush=True)
            status = 1
        except ForeignCheckpoint as error:
            print(f"refused: {path}: {error}", flush=True)
            status = 1
    return status


def print_summary(path: Path, output, verbose: bool) -> int:
    """Prints a checkpoint's figures, or writes them to a JSON file; returns the exit status."""
    found = summary(_existing(path))
    if output is not None:
        write_json(output, found)
    parameters, size = found["parameters"], found["bytes"]
    lines = {
        "file": found["file"],
        "architecture": found["architecture"],
        "updates": found["updates"],
        "epoch": found["epoch"],
        "ranks that trained": found["ranks"],
        "expert-parallel size": found["expert_parallel_size"],
        "parameters": f"{parameters['dense']:,} dense, {parameters['expert']:,} expert",
        "bytes": f"{size['dense']:,} in the file, {size['experts']:,} in shards",
        "optimizer": _yes(found["optimizer"]),
        "EMA": _yes(found["ema"]),
    }
    if found["experts_left_out"]:
        lines["experts"] = "left out: written by one rank alone, when the run broke down"
    for name, value in lines.items():
        print(f"{name:<22}{'unknown' if value is None else value}")
    if verbose:
        width = max((len(tensor["name"]) for tensor in found["tensors"]), default=0)
        for tensor in found["tensors"]:
            kind = "expert" if tensor["expert"] else "dense"
            print(f"{tensor['name']:<{width}}  {kind:<6}  {tensor['dtype']:<8}  {tuple(tensor['shape'])}")
    return 0


def convert(source: Path, target: Path, force: bool, size: int | None) -> int:
    """Writes source as one file (size None) or as shards of `size` ranks to target; returns the exit status."""
    _existing(source)
    _check_target(target, force)
    if size is None:
        merge(source, target)
    else:
        split(source, target, size)
    print(f"written: {target}")
    return 0


def import_hf(folder: Path, target: Path, data: Path | None, force: bool) -> int:
    """Writes a folder of mhmoe-export as a checkpoint; returns the exit status."""
    from fairseq_mhmoe.export.importing import import_folder  # needs fairseq's programs and safetensors

    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    _check_target(target, force)
    parameters = import_folder(folder, target, data)
    print(f"written: {target} ({parameters:,} parameters, no optimizer state)")
    return 0


def _check_target(target: Path, force: bool) -> None:
    if target.exists() and not (force and target.is_file()):
        raise ValueError(f"{target} exists; name another file{'' if target.is_dir() else ', or add --force'}")
    if not target.parent.is_dir():
        raise ValueError(f"{target.parent} is not a folder")


def _checkpoints(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(path.glob("checkpoint*.pt"))
        if not found:
            raise ValueError(f"{path} has no checkpoint*.pt")
        return found
    return [_existing(path)]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    return path


def _for(path, file) -> str:
    return file if file == str(path) else f"{path} by {file}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = _Parser(prog="mhmoe-checkpoint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = result.add_subparsers(dest="command", required=True, metavar="{verify,info,merge,split,import}")
    command = commands.add_parser("verify", help="read all files and hold them against their checksums")
    command.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a checkpoint, or a folder of them")
    command = commands.add_parser("info", help="print what is in a checkpoint")
    command.add_argument("path", type=Path, metavar="PATH")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    command.add_argument("--verbose", action="store_true", help="list the model's tensors")
    for name, text in (("merge", "write one ordinary file"), ("split", "write one file and shards beside it")):
        command = commands.add_parser(name, help=text)
        command.add_argument("source", type=Path, metavar="IN")
        command.add_argument("target", type=Path, metavar="OUT")
        command.add_argument("--force", action="store_true", help="replace OUT if it exists")
        if name == "split":
            command.add_argument("--size", type=int, required=True, metavar="P", help="number of shards")
    command = commands.add_parser("import", help="write a folder of mhmoe-export as a checkpoint")
    command.add_argument("source", type=Path, metavar="HF_FOLDER")
    command.add_argument("target", type=Path, metavar="OUT")
    command.add_argument("--data", type=Path, help="prepared folder of the model, to be named in the checkpoint")
    command.add_argument("--force", action="store_true", help="replace OUT if it exists")
    return result


def main(arguments=None) -> int:
    """Command line; returns the exit status and says errors in one line."""
    args = parser().parse_args(arguments)
    if arguments is None:
        warnings_only()
    try:
        if args.command == "verify":
            return verify_paths(args.paths)
        if args.command == "info":
            return print_summary(args.path, args.json, args.verbose)
        if args.command == "import":
            return import_hf(args.source, args.target, args.data, args.force)
        return convert(args.source, args.target, args.force, getattr(args, "size", None))
    except (ValueError, OSError) as error:
        print(f"mhmoe-checkpoint: error: {' '.join(str(error).split())}", file=sys.stderr)
        about_files = isinstance(error, (DamagedCheckpoint, ForeignCheckpoint, OSError))
        return 1 if about_files else 2


if __name__ == "__main__":
    sys.exit(main())
