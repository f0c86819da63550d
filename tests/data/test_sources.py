"""Where sources and shards are found, and what is missing."""

import json

import pytest

from fairseq_mhmoe.data.manifest import read_manifest
from fairseq_mhmoe.data.sources import Source, choose_sources, find_sources, split_files

DOCUMENTS = [[5, 6, 2], [7, 2]]
SOURCES = {"en": {"train": [DOCUMENTS, DOCUMENTS, DOCUMENTS]}, "de": {"train": [DOCUMENTS]}}


def names(prefixes):
    return [prefix.name for prefix in prefixes]


def test_the_manifest_lists_the_sources(tmp_path, write_sources):
    folder = write_sources(tmp_path / "data", weights={"en": 2.0}, **SOURCES)
    found = find_sources(folder, read_manifest(folder))
    assert found == [Source("en", folder / "en", 2.0), Source("de", folder / "de", None)]


def test_without_a_manifest_subfolders_are_the_sources(tmp_path, write_sources):
    folder = write_sources(tmp_path / "data", manifest=False, **SOURCES)
    (folder / "notes").mkdir()
    assert find_sources(folder, None) == [Source("de", folder / "de"), Source("en", folder / "en")]


def test_a_folder_with_index_files_is_one_source(tmp_path, write_sources, write_files):
    folder = write_sources(tmp_path / "data", manifest=False, **SOURCES)
    write_files(folder / "train", DOCUMENTS)
    assert find_sources(folder, None) == [Source("data", folder)]
    assert find_sources(folder, {"name": "demo"}) == [Source("demo", folder)]


def test_sources_are_chosen_in_the_folders_order(tmp_path):
    sources = [Source(name, tmp_path) for name in ("en", "de", "fr")]
    assert choose_sources(sources, "fr, en") == [sources[0], sources[2]]
    assert choose_sources(sources, None) == sources
    with pytest.raises(ValueError, match="--sources: no source 'it'; the data have de, en, fr"):
        choose_sources(sources, "en,it")


def test_shards_are_read_in_fairseqs_order(tmp_path, write_sources):
    folder = write_sources(tmp_path / "data", manifest=False, **SOURCES)
    source = Source("en", folder / "en")
    assert names(split_files(folder, source, "train", None)) == ["train", "train1", "train2"]
    assert names(split_files(folder, source, "train1", None)) == ["train1"]


def test_a_flat_folders_shards_are_combined_when_asked_or_listed(tmp_path, write_files):
    write_files(tmp_path / "train", DOCUMENTS, DOCUMENTS)
    source = Source("data", tmp_path)
    assert names(split_files(tmp_path, source, "train", None)) == ["train"]
    assert names(split_files(tmp_path, source, "train", None, combine=True)) == ["train", "train1"]
    listed = {"splits": {"train": {"files": {f"train{n}.idx": {"size": 1} for n in ("", 1)}}}}
    assert names(split_files(tmp_path, source, "train", listed)) == ["train", "train1"]


@pytest.mark.parametrize("manifest", [True, False])
def test_a_gap_between_shards_is_an_error(tmp_path, write_sources, manifest):
    folder = write_sources(tmp_path / "data", manifest=manifest, **SOURCES)
    (folder / "en" / "train1.idx").unlink()
    with pytest.raises(ValueError, match="en has or should have .*train2, but train1 is missing before it"):
        split_files(folder, Source("en", folder / "en"), "train", read_manifest(folder))


def test_the_last_shard_of_the_manifest_must_be_there(tmp_path, write_sources):
    folder = write_sources(tmp_path / "data", **SOURCES)
    for ending in ("bin", "idx"):
        (folder / "en" / f"train2.{ending}").unlink()
    with pytest.raises(ValueError, match="should have train2, but train2 is missing"):
        split_files(folder, Source("en", folder / "en"), "train", read_manifest(folder))


def change_place(folder, place):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content["sources"]["en"]["folder"] = str(place)
    path.write_text(json.dumps(content))
    return read_manifest(folder)


def test_a_source_elsewhere_has_to_be_allowed(tmp_path, write_sources):
    folder = write_sources(tmp_path / "data", **SOURCES)
    manifest = change_place(folder, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="source 'en' lies at .*elsewhere, outside of the folder; --absolute-path"):
        find_sources(folder, manifest)
    assert find_sources(folder, manifest, absolute_paths=True)[0].folder == tmp_path / "elsewhere"


def test_a_place_above_the_folder_is_an_error(tmp_path, write_sources):
    folder = write_sources(tmp_path / "data", **SOURCES)
    manifest = change_place(folder, "../elsewhere")
    with pytest.raises(ValueError, match="source 'en' lies at ../elsewhere; expected a folder within"):
        find_sources(folder, manifest, absolute_paths=True)
