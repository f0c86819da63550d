"""Prepare a corpus from the command line: input files by source, or a recipe, or a data folder of the published code.

python -m data_prep --output data/wiki --source en="dumps/enwiki-*.xml.bz2" --language en=en
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path

from data_prep.executors import KINDS, Executor
from data_prep.pipeline import prepare
from data_prep.recipe import MODEL_TYPES, Recipe, Settings
from data_prep.recipe_files import from_globs, from_original, from_yaml

RECIPE_YAML = """a recipe in YAML:
  name: books-and-wiki            # for the manifest; default: the output folder's name
  sources:
    wiki_de:                      # folder of the output
      files: ["dumps/dewiki-*.xml.bz2"]     # globs; relative ones are seen from the recipe's folder
      format: wikipedia           # default: each file's name and first bytes tell
      language: de                # this and the rest: default none
      weight: 1.5
      license: CC BY-SA 4.0
      attribution: by its contributors
"""
PER_SOURCE = {
    "format": "NAME=FORMAT",
    "language": "NAME=CODE",
    "weight": "NAME=NUMBER",
    "license": "NAME=TEXT",
    "attribution": "NAME=TEXT",
}
SETTING_HELP = {
    "vocab_size": "pieces of the vocabulary",
    "model_type": "of SentencePiece",
    "character_coverage": "share of the characters that get pieces",
    "byte_fallback": "unknown characters become bytes; with --no-..., the unknown token",
    "spm_alpha": "the vocabulary's text has sources by p^alpha",
    "spm_characters": "at most so much text is used to train the vocabulary",
    "tokenizer": "use this SentencePiece model (*.model), tiktoken file (*.tiktoken) or cl100k_base, train none",
    "seed": "of the split and of samples",
    "valid_share": "expected share of the documents",
    "test_share": "expected share of the documents",
    "min_chars": "reject shorter documents",
    "max_chars": "reject longer documents",
    "exact_dedup": "drop documents whose text was there before",
    "near_dedup": "drop documents whose text is nearly another's (MinHash)",
    "sample": "expected share of the documents to take",
    "split_subsets": "subsets named in a mixed file become sources of their own",
    "allow_damaged_files": "take what can be read of damaged files and list them, instead of stopping",
    "shard_tokens": "about so many tokens in one index",
}
# of files that something is wrong with
NAMED_FILES = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it; exits with status 1 and one line when something is wrong."""
    options = make_parser().parse_args(arguments)
    start = time.monotonic()
    try:
        settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
        executor = Executor(
            kind=options.executor,
            workers=options.workers,
            slurm_partition=options.slurm_partition,
            slurm_time=options.slurm_time,
            slurm_mem_per_cpu=options.slurm_mem_per_cpu,
            slurm_sbatch=_pairs(options.slurm_sbatch, "--slurm-sbatch"),
            ray_address=options.ray_address,
            dry_run=options.dry_run,
        )
        manifest = prepare(_recipe(options), settings, options.output, executor)
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if manifest:
        print(f"{options.output}: {_summary(manifest)}; {time.monotonic() - start:.1f} s")
    elif not options.dry_run:
        print(f"submitted; {options.output}/manifest.json will come last. If jobs fail, the same command goes on.")


def _summary(manifest: dict) -> str:
    """Sources, documents and rejected records; then files of which nothing was taken, and damaged ones."""
    splits = ", ".join(f"{name} {split['documents']:,}" for name, split in manifest["splits"].items())
    rejected = sum(manifest["rejected"].values())
    of_records = f"{rejected:,} of {manifest['read']:,} records rejected"
    parts = [f"{len(manifest['sources'])} sources, documents: {splits}", of_records]
    for what, key in (("FILES WITHOUT ONE DOCUMENT", "unusable"), ("DAMAGED FILES", "damaged")):
        if names := [file["file"] for file in manifest.get(key, ())]:
            more = f" and {len(names) - NAMED_FILES} more" if len(names) > NAMED_FILES else ""
            parts.append(f"{what}: {', '.join(names[:NAMED_FILES])}{more} (see manifest.json)")
    return "; ".join(parts)


def make_parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep",
        description=__doc__.split("\n")[0],
        epilog=RECIPE_YAML,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to prepare")
    parser.add_argument("--name", help="of the corpus, for the manifest (default: the recipe's, else the folder's)")
    inputs = parser.add_argument_group("inputs (one of --source, --recipe, --original-folder)")
    inputs.add_argument(
        "--source", action="append", default=[], metavar="NAME=GLOB", help="files of a source; may be repeated"
    )
    for name, metavar in PER_SOURCE.items():
        inputs.add_argument(f"--{name}", action="append", default=[], metavar=metavar, help=f"{name} of a source")
    inputs.add_argument("--recipe", type=Path, metavar="FILE", help="YAML, see below")
    inputs.add_argument("--original-folder", type=Path, metavar="DIR", help="with json/train.json, json/valid.json")
    settings = parser.add_argument_group("settings")
    for field in fields(Settings):
        flag = f"--{field.name.replace('_', '-')}"
        described = f"{SETTING_HELP[field.name]} (default: {field.default})"
        assert field.default is not MISSING
        if isinstance(field.default, bool):
            action = argparse.BooleanOptionalAction
            settings.add_argument(flag, action=action, default=field.default, help=SETTING_HELP[field.name])
        else:
            kind = {"max_chars": int, "tokenizer": str}.get(field.name, type(field.default))
            choices = MODEL_TYPES if field.name == "model_type" else None
            settings.add_argument(flag, type=kind, default=field.default, choices=choices, help=described)
    where = parser.add_argument_group("where to run")
    default = Executor()
    where.add_argument("--executor", choices=KINDS, default="local", help="(default: local)")
    where.add_argument("--workers", type=int, metavar="N", help="tasks at the same time (default: all cores, no limit)")
    where.add_argument("--slurm-partition", metavar="P")
    where.add_argument("--slurm-time", default=default.slurm_time, metavar="T", help="of a task (default: %(default)s)")
    where.add_argument(
        "--slurm-mem-per-cpu", type=int, default=default.slurm_mem_per_cpu, metavar="GB", help="(default: %(default)s)"
    )
    where.add_argument(
        "--slurm-sbatch", action="append", default=[], metavar="KEY=VALUE", help="sbatch's --KEY=VALUE; repeatable"
    )
    where.add_argument("--ray-address", metavar="A", help="of a cluster (default: $RAY_ADDRESS, else a new one)")
    where.add_argument("--dry-run", action="store_true", help="show the stages, or Slurm's job files; run nothing")
    return parser


def _recipe(options: argparse.Namespace) -> Recipe:
    given = [
        f"--{name}" for name in ("source", "recipe", "original-folder") if getattr(options, name.replace("-", "_"))
    ]
    if len(given) != 1:
        wanted = "one of --source, --recipe and --original-folder"
        raise ValueError(f"expected {wanted}, got {' and '.join(given) or 'none'}")
    attributes = {name: _pairs(getattr(options, name), f"--{name}") for name in PER_SOURCE}
    name = options.name or options.output.absolute().name
    if options.source:
        return from_globs(name, [_pair(text, "--source") for text in options.source], attributes)
    allowed = ("license", "attribution") if options.original_folder else ()
    if unused := [f"--{key}" for key, values in attributes.items() if values and key not in allowed]:
        raise ValueError(f"{', '.join(unused)} with {given[0]}: write it into the file instead")
    if options.recipe:
        recipe = from_yaml(options.recipe, name)
        return replace(recipe, name=options.name) if options.name else recipe
    return from_original(options.original_folder, name, attributes)


def _pair(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise ValueError(f"{option} {text!r}; expected NAME=VALUE")
    return key, value


def _pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    pairs = {}
    for key, value in (_pair(text, option) for text in texts):
        if pairs.setdefault(key, value) != value:
            raise ValueError(f"{option} says {key} twice: {pairs[key]!r} and {value!r}")
    return pairs


if __name__ == "__main__":
    main()
