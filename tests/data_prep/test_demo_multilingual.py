"""The multilingual demonstration from wheels made here: languages by code, packages together, one split a message."""

import json
import random
import zipfile

import pytest

from data_prep.demo_multilingual import LANGUAGES, main, multilingual_corpus, source_of

HEADER = 'msgid ""\nmsgstr ""\n"Language: {}\\n"\n"Content-Type: text/plain; charset=UTF-8\\n"\n\n'
LETTERS = {"de": "aehinrstuäß", "pt": "aeimnorsãçé", "el": "αειηνορστυκ", "zh": "条目标题页面编辑保存删"}


def catalog(language, numbers):
    rng = random.Random(numbers.start)
    entries = []
    for number in numbers:
        words = " ".join("".join(rng.choices(LETTERS[language], k=rng.randint(2, 6))) for _ in range(8))
        entries.append(f'msgid "item {number}"\nmsgstr "{words} {number} %(x)s"\n')
    return HEADER.format(language) + "\n".join(entries) + '\n#, fuzzy\nmsgid "old"\nmsgstr "alt"\n'


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with zipfile.ZipFile(folder / "django-5.2.19-py3-none-any.whl", "w") as archive:
        for code, language in (("de", "de"), ("pt", "pt"), ("pt_BR", "pt"), ("el", "el"), ("zh_Hans", "zh")):
            for app in ("conf", "contrib/admin"):
                numbers = range(0, 60) if app == "conf" else range(60, 90)
                archive.writestr(f"django/{app}/locale/{code}/LC_MESSAGES/django.po", catalog(language, numbers))
    with zipfile.ZipFile(folder / "plone_app_locales-7.0.4-py3-none-any.whl", "w") as archive:
        archive.writestr("plone/app/locales/locales/de/LC_MESSAGES/plone.po", catalog("de", range(60, 100)))
    return folder


@pytest.mark.parametrize(
    "code, source",
    [("pt_BR", "pt"), ("zh_CN", "zh"), ("zh_Hant_HK", "zh-hant"), ("sr@Latn", "sr-latn"), ("no", "nb"), ("de", "de")],
)
def test_codes_of_a_language_are_one_source(code, source):
    assert source_of(code) == source


def test_there_are_the_languages_of_the_papers():
    assert set(LANGUAGES) >= set("bg de el en es fr hi ru sw th tr ur vi zh".split())


def test_each_package_is_one_file_of_a_language(cache):
    recipe = multilingual_corpus(["de", "pt"], cache)
    assert [(file.source, file.path.name) for file in recipe.inputs] == [
        ("de", "django.po"),
        ("de", "plone.po"),
        ("pt", "django.po"),
    ]
    assert recipe.info_of("de").license == "django: BSD-3-Clause; plone: GPL-2.0"
    assert recipe.info_of("pt").license == "django: BSD-3-Clause"


def test_a_language_that_no_package_has_is_named(cache):
    with pytest.raises(ValueError, match="no translations into xx, yy; there are de, el, pt, zh"):
        multilingual_corpus(["xx", "de", "yy"], cache)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, cache):
    output = tmp_path_factory.mktemp("data")
    words = ["--output", str(output), "--cache", str(cache), "--vocab-size", "320", "--workers", "1", "--seed", "4"]
    main([*words, "--languages", "de", "zh", "el"])
    return output


def test_a_folder_is_prepared_without_copies_and_fuzzy_messages(prepared):
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert list(manifest["sources"]) == ["de", "zh", "el"]
    german = manifest["sources"]["de"]
    # 90 + 40 messages, 30 of them in both packages; a fuzzy one in each of three catalogs
    assert (german["read"], german["accepted"]) == (133, 100)
    assert german["rejected"] == {"exact_duplicate": 30, "fuzzy": 3}
    assert (prepared / "zh/train.bin").exists()


def test_a_message_is_in_the_same_split_in_all_languages(prepared):
    [texts] = prepared.glob("work/*/text")
    found = {}
    for path in texts.glob("*/*/*.jsonl"):
        for line in path.read_text().splitlines():
            found.setdefault(json.loads(line)["id"], set()).add(path.parent.name)
    assert len(found) == 100 and all(len(splits) == 1 for splits in found.values())
    assert set.union(*found.values()) == {"train", "valid", "test"}


def test_errors_are_one_line(tmp_path, cache):
    with pytest.raises(SystemExit, match="^error: no translations into xx; there are"):
        main(["--output", str(tmp_path / "data"), "--cache", str(cache), "--languages", "xx"])
