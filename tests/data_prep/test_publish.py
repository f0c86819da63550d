"""The prepared folder of several sources: layout, shards, manifest, and what is left of earlier preparations."""

import gzip
import json
from pathlib import Path

import pytest

from data_prep.pipeline import prepare
from data_prep.recipe import InputFile, Recipe, Settings, SourceInfo
from data_prep.tokenizers import load_tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_jsonl, make_texts):
    """Source en of three files, and a mixed file; with two bad lines."""
    folder = tmp_path_factory.mktemp("corpus")
    parts = [{"text": text, "meta": {"redpajama_set_name": f"P{i % 2}"}} for i, text in enumerate(make_texts(80, 9))]
    return {
        "en": [write_jsonl(folder / f"{i}.jsonl", make_texts(40, seed=i)) for i in range(3)],
        "mix": [write_jsonl(folder / "mix.jsonl", [*parts, b"{\n", {"text": 1}])],
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, corpus, prepare_sources):
    folder = tmp_path_factory.mktemp("prepared") / "out"
    inputs = {"weight": 3.0, "language": "en"}
    return folder, prepare_sources(folder, corpus, inputs=inputs, shard_tokens=5000)


def test_each_source_has_its_folder_and_every_record_its_place(prepared):
    folder, manifest = prepared
    assert manifest["format"] == 2 and manifest["read"] == 202
    assert manifest["rejected"] == {"json": 1, "text_type": 1}
    assert list(manifest["sources"]) == ["en", "mix", "mix-P0", "mix-P1"]
    for name, source in manifest["sources"].items():
        assert source["folder"] == name and source["language"] == "en"
        assert source["read"] == source["accepted"] + sum(source["rejected"].values())
        assert source["accepted"] == sum(split["documents"] for split in source["splits"].values())
    # a mixed file's bad lines belong to no part of it
    assert manifest["sources"]["mix"]["splits"] == {} and manifest["sources"]["mix"]["read"] == 2
    assert manifest == json.loads((folder / "manifest.json").read_text())


def test_splits_are_the_sums_of_the_sources_and_name_their_files(prepared, read_texts):
    folder, manifest = prepared
    for split, total in manifest["splits"].items():
        for what in ("documents", "tokens", "bytes"):
            assert total[what] == sum(s["splits"].get(split, {what: 0})[what] for s in manifest["sources"].values())
        texts = [text for name in total["files"] if name.endswith(".bin") for text in read_texts(folder, name[:-4])]
        assert len(texts) == total["documents"] and sum(len(text.encode()) for text in texts) == total["bytes"]
        assert all((folder / name).stat().st_size == file["size"] for name, file in total["files"].items())


def test_the_weight_of_a_mixed_file_is_shared_by_its_parts(prepared):
    _, manifest = prepared
    weights = {name: source["weight"] for name, source in manifest["sources"].items()}
    assert weights["en"] == 3.0
    assert weights["mix-P0"] + weights["mix-P1"] == pytest.approx(3.0) and 1.2 < weights["mix-P0"] < 1.8


def test_shards_are_numbered_as_fairseq_does(prepared, corpus):
    folder, manifest = prepared
    train = [name for name in manifest["splits"]["train"]["files"] if name.startswith("en/")]
    # each of the three files has some 4000 tokens; they are not cut
    assert train == [f"en/train{number}.{end}" for number in ("", "1", "2") for end in ("bin", "idx")]


def test_shards_in_a_row_are_the_whole(tmp_path, prepared, corpus, prepare_sources, read_texts):
    prepare_sources(tmp_path / "out", {"en": corpus["en"]})
    prepare_sources(tmp_path / "cut", {"en": corpus["en"]}, shard_tokens=5000)
    parts = [text for number in ("", "1", "2") for text in read_texts(tmp_path / "cut", f"en/train{number}")]
    assert parts == read_texts(tmp_path / "out", "en/train")


def test_other_settings_leave_nothing_old_behind(tmp_path, corpus, prepare_sources):
    prepare_sources(tmp_path / "out", {"en": corpus["en"], "gone": corpus["en"][:1]}, shard_tokens=5000)
    # as after a kill between the old manifest and the new one
    (tmp_path / "out/manifest.json").rename(tmp_path / "out/.replaced.json")
    stranger = tmp_path / "out/other/train.bin"
    stranger.parent.mkdir()
    stranger.touch()
    (tmp_path / "out/en/.train.bin.1.tmp.bin").touch()
    tokenizer = next(tmp_path.glob("out/spm.model"))
    manifest = prepare_sources(tmp_path / "out", {"en": corpus["en"]})
    found = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.glob("out/en/*")}
    assert found == {name for split in manifest["splits"].values() for name in split["files"]}
    assert stranger.exists() and tokenizer.exists()
    assert {path.name for path in tmp_path.glob("out/*")} == {
        "en",
        "other",
        "work",
        "dict.txt",
        "spm.model",
        "manifest.json",
    }
    assert not (tmp_path / "out/.replaced.json").exists()


def test_a_given_tokenizer_is_used_and_saved(tmp_path, prepared, corpus, prepare_sources):
    model = prepared[0] / "spm.model"
    manifest = prepare_sources(tmp_path / "out", {"en": corpus["en"]}, tokenizer=model)
    assert (tmp_path / "out/spm.model").read_bytes() == model.read_bytes()
    assert manifest["settings"]["tokenizer"] == "spm.model"
    assert manifest["dictionary"]["size"] == 4 + len(load_tokenizer(model).symbols)


def test_licences_are_told_for_each_source_and_together(tmp_path, corpus, make_texts):
    inputs = (InputFile(corpus["en"][0], "jsonl", "a"), InputFile(corpus["en"][1], "jsonl", "b"))
    recipe = Recipe("r", inputs, {"a": SourceInfo("CC0", "x"), "b": SourceInfo("MIT")})
    settings = Settings(vocab_size=320, min_chars=10, valid_share=0.2, test_share=0.2)
    manifest = prepare(recipe, settings, tmp_path / "out")
    assert manifest["license"] == "CC0; MIT" and manifest["attribution"] == "x"
    assert manifest["sources"]["b"]["license"] == "MIT"
    # another licence is another manifest, but the same data
    stages = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/work/*/logs/*/completions/*")}
    changed = prepare(Recipe("r", inputs, {"a": SourceInfo("CC0", "y")}), settings, tmp_path / "out")
    assert changed["attribution"] == "y" and changed["splits"] == manifest["splits"]
    assert [path.parts[-3] for path, time in stages.items() if path.stat().st_mtime_ns != time] == ["publish"]


def test_files_with_a_split_need_no_other(tmp_path, write_jsonl, make_texts):
    paths = {
        split: write_jsonl(tmp_path / f"{split}.jsonl", make_texts(30, i)) for i, split in enumerate(("train", "valid"))
    }
    recipe = Recipe("r", tuple(InputFile(path, "jsonl", "a", split=split) for split, path in paths.items()))
    manifest = prepare(recipe, Settings(vocab_size=320, min_chars=10), tmp_path / "out")
    assert {split: total["documents"] for split, total in manifest["splits"].items()} == {"train": 30, "valid": 30}


def test_damaged_files_are_listed_when_allowed_and_refused_when_not(tmp_path, corpus, write_jsonl, prepare_sources):
    damaged: Path = tmp_path / "bad.jsonl.gz"
    damaged.write_bytes(gzip.compress(corpus["en"][0].read_bytes())[:-10])
    sources = {"en": [*corpus["en"], damaged]}
    with pytest.raises(ValueError, match="bad.jsonl.gz"):
        prepare_sources(tmp_path / "out", sources)
    manifest = prepare_sources(tmp_path / "out", sources, allow_damaged_files=True)
    assert [entry["file"] for entry in manifest["damaged"]] == ["bad.jsonl.gz"]
    with pytest.raises(ValueError, match="bad.jsonl.gz"):
        prepare_sources(tmp_path / "out", sources)
