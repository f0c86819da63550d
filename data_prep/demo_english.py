"""Prepare the English demonstration corpus: 106 Wikipedia articles, from the dump that gensim carries for its tests.

python -m data_prep.demo_english --output data/demo-english
"""

import argparse
import sys
import time
from pathlib import Path

from data_prep.fetch import FetchError, download_wheel, extract_member
from data_prep.pipeline import Corpus, Settings, prepare
from data_prep.wikipedia import ArticleFilter, WikipediaDumpReader

GENSIM = "gensim==4.4.0"
DUMP_IN_WHEEL = "*/test_data/enwiki-latest-pages-articles1.xml-*.bz2"
LICENSE = "Creative Commons Attribution-ShareAlike 3.0 (CC BY-SA 3.0)"
ATTRIBUTION = (
    "English Wikipedia, by its contributors, from the dump in the test data of the package gensim; markup was removed "
    "and text was left out. An article's authors are listed in its page history; its title and page id stand in "
    "work/*/text/*/*.jsonl."
)


def find_dump(cache: Path, wheel: Path | None) -> Path:
    """The dump, out of the given wheel or of the cache, else fetched with pip; FetchError when that fails."""
    if wheel is None:
        if present := sorted(cache.glob(Path(DUMP_IN_WHEEL).name)):
            return present[0]
        wheel = download_wheel(GENSIM, cache)
    return extract_member(wheel, DUMP_IN_WHEEL, cache)


def wikipedia_corpus(dump: Path, min_chars: int) -> Corpus:
    """The corpus made of one English Wikipedia dump file."""
    return Corpus(
        name="demo-english",
        license=LICENSE,
        attribution=ATTRIBUTION,
        files=[dump],
        reader=WikipediaDumpReader(str(dump.parent), glob_pattern=dump.name),
        cleaner=ArticleFilter(min_chars),
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line; exits with status 1 and one line when something is wrong."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m data_prep.demo_english", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to prepare, for example data/demo-english")
    parser.add_argument("--vocab-size", type=int, default=defaults.vocab_size, help="pieces (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the split (default: %(default)s)")
    parser.add_argument(
        "--wheel", type=Path, help=f"a wheel of {GENSIM.partition('=')[0]} at hand, instead of fetching it"
    )
    options = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        settings = Settings(vocab_size=options.vocab_size, seed=options.seed)
        dump = find_dump(options.output / "work/cache", options.wheel)
        manifest = prepare(wikipedia_corpus(dump, settings.min_chars), settings, options.output)
    except (FetchError, RuntimeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    splits = ", ".join(f"{name} {split['documents']}" for name, split in manifest["splits"].items())
    print(f"{options.output}: documents: {splits}; {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
