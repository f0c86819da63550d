"""Prepare images, or images with captions, from the command line.

python -m data_prep.images --output data/pairs --source cc12m="cc12m/*.tar" --dictionary data/text
"""

import argparse
import glob
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from data_prep.executors import KINDS, Executor
from data_prep.images.formats import FORMATS, format_of
from data_prep.images.pipeline import prepare_images
from data_prep.images.settings import ImageInput, ImageSettings
from data_prep.recipe import SPLITS, SourceInfo

SETTING_HELP = {
    "seed": "of the split",
    "valid_share": "expected share of the images",
    "test_share": "expected share of the images",
    "max_pixels": "reject images of more pixels, before they are decoded",
    "max_bytes": "reject larger files",
    "min_side": "reject images that are narrower or lower",
    "max_caption_chars": "reject longer captions",
    "caption_key": "field with the caption in img2dataset's JSON files; default: the text file, else `caption`",
    "images_per_tar": "entries of a listing that are packed into one tar",
    "allow_damaged_files": "take what stands before the damage in a tar and list it, instead of stopping",
}
# of files that something is wrong with
NAMED_FILES = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it; exits with status 1 and one line when something is wrong."""
    options = make_parser().parse_args(arguments)
    start = time.monotonic()
    try:
        settings = ImageSettings(**{field.name: getattr(options, field.name) for field in fields(ImageSettings)})
        executor = Executor(
            kind=options.executor,
            workers=options.workers,
            slurm_partition=options.slurm_partition,
            slurm_time=options.slurm_time,
            slurm_mem_per_cpu=options.slurm_mem_per_cpu,
            ray_address=options.ray_address,
            dry_run=options.dry_run,
        )
        inputs, info = _inputs(options)
        manifest = prepare_images(inputs, options.output, settings, options.dictionary, info, options.name, executor)
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if manifest:
        print(f"{options.output}: {_summary(manifest)}; {time.monotonic() - start:.1f} s")
    elif not options.dry_run:
        print(f"submitted; {options.output}/manifest.json will come last. If jobs fail, the same command goes on.")


def make_parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.images", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to prepare")
    parser.add_argument("--name", help="of the collection, for the manifest (default: the folder's)")
    inputs = parser.add_argument_group("inputs")
    inputs.add_argument(
        "--source",
        action="append",
        default=[],
        required=True,
        metavar="NAME[:SPLIT]=GLOB",
        help="tars, listings or folders of a source; with SPLIT, all of them go there; may be repeated",
    )
    inputs.add_argument(
        "--format",
        action="append",
        default=[],
        metavar="[NAME=]FORMAT",
        help=f"of a source, or of all: {', '.join(FORMATS)} (default: by ending, *.tar is webdataset)",
    )
    inputs.add_argument(
        "--images", action="append", default=[], metavar="NAME=DIR", help="pictures that a source's listing names"
    )
    inputs.add_argument(
        "--dictionary",
        type=Path,
        metavar="DIR",
        help="prepared text folder that encodes captions; default: none",
    )
    for name in ("license", "attribution"):
        inputs.add_argument(f"--{name}", action="append", default=[], metavar="NAME=TEXT", help=f"{name} of a source")
    settings = parser.add_argument_group("settings")
    for field in fields(ImageSettings):
        flag, text = f"--{field.name.replace('_', '-')}", SETTING_HELP[field.name]
        if isinstance(field.default, bool):
            settings.add_argument(flag, action="store_true", help=text)
        elif field.default is None:
            settings.add_argument(flag, metavar="NAME", help=text)
        else:
            settings.add_argument(
                flag, type=type(field.default), default=field.default, help=f"{text} (default: {field.default})"
            )
    where = parser.add_argument_group("where to run; every tar is a task")
    default = Executor()
    where.add_argument("--executor", choices=KINDS, default="local", help="(default: local)")
    where.add_argument("--workers", type=int, metavar="N", help="tasks at the same time (default: all cores, no limit)")
    where.add_argument("--slurm-partition", metavar="P")
    where.add_argument("--slurm-time", default=default.slurm_time, metavar="T", help="of a task (default: %(default)s)")
    where.add_argument(
        "--slurm-mem-per-cpu", type=int, default=default.slurm_mem_per_cpu, metavar="GB", help="(default: %(default)s)"
    )
    where.add_argument("--ray-address", metavar="A", help="of a cluster (default: $RAY_ADDRESS, else a new one)")
    where.add_argument("--dry-run", action="store_true", help="show the stages, or Slurm's job files; run nothing")
    return parser


def _inputs(options: argparse.Namespace) -> tuple[list[ImageInput], dict[str, SourceInfo]]:
    patterns = [_pair(text, "--source", "NAME[:SPLIT]=GLOB") for text in options.source]
    names = list(dict.fromkeys(key.partition(":")[0] for key, _ in patterns))
    formats, common = {}, None
    for text in options.format:
        if "=" in text:
            formats |= _pairs([text], "--format", names, formats)
        elif common not in (None, text):
            raise ValueError(f"--format says {common} and {text}; expected NAME=FORMAT of each source")
        else:
            common = text
    images = _pairs(options.images, "--images", names)
    inputs = []
    for key, pattern in patterns:
        name, colon, split = key.partition(":")
        if colon and split not in SPLITS:
            raise ValueError(f"--source {key}={pattern}: split is {split!r}; expected one of {', '.join(SPLITS)}")
        files = tuple(Path(path) for path in sorted(glob.glob(pattern, recursive=True)))
        if not files:
            raise ValueError(f"--source {key}={pattern}: no such files")
        folder = Path(images[name]) if name in images else None
        chosen = formats.get(name, common)
        by_format: dict[str, list[Path]] = {}
        for path in files:
            by_format.setdefault(chosen or format_of(path), []).append(path)
        inputs += [ImageInput(name, tuple(own), kind, folder, split or None) for kind, own in by_format.items()]
    licences = _pairs(options.license, "--license", names)
    attributions = _pairs(options.attribution, "--attribution", names)
    known = {name: {"license": licences.get(name), "attribution": attributions.get(name)} for name in names}
    return inputs, {
        name: SourceInfo(**{key: value for key, value in said.items() if value}) for name, said in known.items()
    }


def _pair(text: str, option: str, form: str = "NAME=VALUE") -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise ValueError(f"{option} {text!r}; expected {form}")
    return key, value


def _pairs(texts: Sequence[str], option: str, names: Sequence[str], earlier: dict | None = None) -> dict[str, str]:
    pairs = dict(earlier or {})
    for key, value in (_pair(text, option) for text in texts):
        if key not in names:
            raise ValueError(f"{option} {key}={value}: no such source; the sources are {', '.join(names)}")
        if pairs.setdefault(key, value) != value:
            raise ValueError(f"{option} says {key} twice: {pairs[key]!r} and {value!r}")
    return pairs


def _summary(manifest: dict) -> str:
    """Sources and records, rejected ones by reason; then sources of which nothing was taken, and damaged files."""
    splits = ", ".join(f"{name} {split['records']:,}" for name, split in manifest["splits"].items())
    rejected = sum(manifest["rejected"].values())
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in manifest["rejected"].items())
    parts = [
        f"{len(manifest['sources'])} sources, records: {splits}",
        f"{rejected:,} of {manifest['read']:,} rejected" + (f" ({reasons})" if reasons else ""),
    ]
    if empty := [name for name, source in manifest["sources"].items() if not source["accepted"]]:
        parts.append(f"SOURCES WITHOUT ONE RECORD: {', '.join(empty)}; are they of these formats?")
    if names := [file["file"] for file in manifest.get("damaged", ())]:
        more = f" and {len(names) - NAMED_FILES} more" if len(names) > NAMED_FILES else ""
        parts.append(f"DAMAGED FILES: {', '.join(names[:NAMED_FILES])}{more} (see manifest.json)")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
