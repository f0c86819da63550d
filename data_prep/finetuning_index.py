"""What the index files of fine-tuning are written with: JSON lines, the model's tokenizer beside them, a manifest."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from data_prep.files import copy, replacing, sha256_of, write_text

TOKENIZER = ("dict.txt", "spm.model")


def write_index(path: Path, records: Iterable[dict]) -> int:
    """Write one record a line, whole or not at all; returns their number."""
    count = 0
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
    return count


def read_json(path: Path):
    """Content of a JSON file; ValueError when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); fetch it again") from None


def copy_tokenizer(source: Path, output: Path) -> None:
    """Copy dict.txt and spm.model of a pre-trained model's text folder; ValueError when one is missing."""
    for name in TOKENIZER:
        if not (source / name).is_file():
            raise ValueError(f"--tokenizer {source}: no {name}; name the text folder that the model was trained on")
        if (source / name).resolve() != (output / name).resolve():
            copy(source / name, output / name)


def write_manifest(path: Path, inputs: Iterable[Path], **facts) -> dict:
    """Write what was made of which files, last of all."""
    manifest = {"inputs": {file.name: sha256_of(file) for file in inputs}, **facts}
    write_text(path, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return manifest


def index_parser(program: str, description: str, annotations: str) -> argparse.ArgumentParser:
    """The options that every program has; `annotations` tells what --annotations is."""
    parser = argparse.ArgumentParser(
        prog=f"python -m data_prep.{program}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--annotations", type=Path, required=True, help=annotations)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--tokenizer", type=Path, help="text folder of the pre-trained model, copied from")
    return parser


def run(prepare: Callable[[argparse.Namespace], dict], options: argparse.Namespace, records: str) -> dict:
    """Copy the tokenizer, prepare, and print the number of records of each index; returns the manifest.

    ValueError and OSError end the program with status 1 and one line.
    """
    try:
        if options.tokenizer is not None:
            copy_tokenizer(options.tokenizer, options.output)
        manifest = prepare(options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for name, count in manifest["records"].items():
        print(f"{options.output / name}: {count:,} {records}")
    return manifest
