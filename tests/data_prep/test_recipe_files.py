"""Recipes out of globs and YAML files."""

import pytest

from data_prep.recipe import SourceInfo
from data_prep.recipe_files import from_globs, from_original, from_yaml


@pytest.fixture
def folder(tmp_path, write_jsonl):
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl"):
        write_jsonl(tmp_path / name, ["text"])
    (tmp_path / "d.txt").write_text("text")
    return tmp_path


def test_globs_give_files_in_order_once_each(folder):
    recipe = from_globs("r", [("x", "*.jsonl"), ("y", "d.txt"), ("x", "**/*.jsonl")], {"weight": {"x": "2"}}, folder)
    assert [(file.source, file.path.name, file.format, file.weight) for file in recipe.inputs] == [
        ("x", "a.jsonl", "jsonl", 2.0),
        ("x", "b.jsonl", "jsonl", 2.0),
        ("y", "d.txt", "text", None),
        ("x", "c.jsonl", "jsonl", 2.0),
    ]


def test_a_file_has_one_path(folder, monkeypatch):
    monkeypatch.chdir(folder)
    recipe = from_globs("r", [("x", "a.jsonl"), ("x", f"{folder}/a.*"), ("x", f"../{folder.name}/a.jsonl")], {})
    assert [file.path.name for file in recipe.inputs] == ["a.jsonl"]


@pytest.mark.parametrize(
    "sources, attributes, message",
    [
        ([("x", "*.none")], {}, "no file matches .*none .source x."),
        ([("x", "*.jsonl")], {"language": {"y": "en"}}, "language of y; the sources are x"),
        ([("x", "*.jsonl")], {"weight": {"x": "many"}}, "weight of x is 'many'; expected a number"),
        ([("../x", "*.jsonl")], {}, "source name"),
    ],
)
def test_globs_and_attributes_that_fit_nothing_are_errors(folder, sources, attributes, message):
    with pytest.raises(ValueError, match=message):
        from_globs("r", sources, attributes, folder)


def test_a_yaml_recipe_says_it_all(folder):
    path = folder / "recipe.yaml"
    path.write_text(
        "name: both\nsources:\n"
        "  x: {files: [a.jsonl, b.jsonl], language: de, weight: 1, license: CC0, attribution: me}\n"
        "  y: {files: d.txt, format: text}\n"
    )
    recipe = from_yaml(path, "data")
    assert recipe.name == "both" and recipe.sources() == ["x", "y"]
    assert {file.language for file in recipe.inputs if file.source == "x"} == {"de"}
    assert recipe.info_of("x") == SourceInfo("CC0", "me") and recipe.info_of("y") == SourceInfo()


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [", "is no YAML"),
        ("- x", "expected a mapping with `sources`"),
        ("sources: {}", "expected a mapping with `sources`"),
        ("source: {}\nsources: {x: {files: a.jsonl}}", "unknown key source; expected name, sources"),
        ("sources: {x: {}}", "source x: expected a mapping with `files`"),
        ("sources: {x: {files: []}}", "source x: files is .*; expected a glob"),
        ("sources: {x: {files: [1]}}", "source x: files is .*; expected a glob"),
        ("sources: {x: {files: a.jsonl, wight: 1}}", "source x: unknown key 'wight'"),
        # Norwegian's code is false in YAML
        ("sources: {x: {files: a.jsonl, language: no}}", "language is False; expected str"),
    ],
)
def test_a_wrong_yaml_recipe_is_told_what_is_wrong(folder, text, message):
    (folder / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        from_yaml(folder / "recipe.yaml", "data")


def test_the_published_codes_folder_becomes_a_recipe(folder, write_jsonl):
    (folder / "json").mkdir()
    entry = '[{"source": ["a.jsonl"], "source_lang": "en", "weight": 2, "name": "web"}]'
    for split in ("train", "valid"):
        (folder / f"json/{split}.json").write_text(entry)
    recipe = from_original(folder, "old", {"license": {"web": "unclear"}})
    assert [(file.source, file.weight, file.split) for file in recipe.inputs] == [
        ("web", 2.0, "train"),
        ("web", 2.0, "valid"),
    ]
    assert recipe.info_of("web").license == "unclear"
