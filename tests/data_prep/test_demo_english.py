"""The demonstration corpus from the command line, with a wheel made here and with the real one."""

import json
import zipfile

import pytest

from data_prep import demo_english
from data_prep.demo_english import DUMP_IN_WHEEL, GENSIM, main
from data_prep.fetch import FetchError, download_wheel

MEMBER = "gensim/test/" + DUMP_IN_WHEEL.replace("*/", "").replace("*", "p1p9-shortened")


@pytest.fixture
def wheel(tmp_path, write_dump, write_articles):
    path = tmp_path / "gensim-0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(write_dump(tmp_path / "dump.xml.bz2", write_articles(80)), MEMBER)
    return path


def test_the_command_line_prepares_a_folder(tmp_path, run_cli, wheel):
    output = tmp_path / "data"
    arguments = ("-m", "data_prep.demo_english", "--output", output, "--vocab-size", 330)
    first = run_cli("python", *arguments, "--wheel", wheel)
    assert f"{output}: documents: train" in first.stdout and "stage vocabulary" in first.stdout
    assert json.loads((output / "manifest.json").read_text())["tokenizer"]["vocab_size"] == 330
    # the dump is in the cache by now
    wheel.unlink()
    assert "is complete" in run_cli("python", *arguments).stdout


def test_another_seed_is_another_split(tmp_path, wheel):
    files = []
    for seed in ("3", "4"):
        main(["--output", str(tmp_path / seed), "--vocab-size", "330", "--seed", seed, "--wheel", str(wheel)])
        files.append((tmp_path / seed / "valid.bin").read_bytes())
    assert files[0] != files[1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--wheel", "none.whl"], "error: no such wheel: none.whl"),
        (["--vocab-size", "100"], "error: vocab_size is 100; expected 300 or more"),
        (["--vocab-size", "100000"], "error: SentencePiece trained no vocabulary of 100000 pieces"),
    ],
)
def test_errors_are_one_line(tmp_path, wheel, arguments, message):
    if "--wheel" not in arguments:
        arguments = [*arguments, "--wheel", str(wheel)]
    with pytest.raises(SystemExit) as error:
        main(["--output", str(tmp_path / "data"), *arguments])
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert not (tmp_path / "data/manifest.json").exists()


def test_several_sources_are_folders_of_their_own(tmp_path, monkeypatch, wheel):
    def write(folder, name, count):
        lines = [
            json.dumps({"title": f"{name} {number}", "text": f"{name} has a text {number} " * 12})
            for number in range(count)
        ]
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join([*lines, "{damaged", lines[0]]) + "\n")
        return path

    def works(package, folder):
        return {split: write(folder, f"work-{split}", 3) for split in ("train", "valid", "test")}

    monkeypatch.setattr(demo_english, "download_sdist", lambda requirement, cache: cache)
    monkeypatch.setattr(demo_english, "download_wheel", lambda requirement, cache: cache)
    monkeypatch.setattr(demo_english, "write_works", works)
    monkeypatch.setattr(demo_english, "write_passages", lambda package, folder: [write(folder, "passages", 200)])
    cache = tmp_path / "cache"
    cache.mkdir()
    words = ["--output", str(tmp_path / "data"), "--cache", str(cache), "--wheel", str(wheel), "--vocab-size", "330"]
    main([*words, "--workers", "1", "--sources", "wikipedia", "gutenberg", "passages"])
    sources = json.loads((tmp_path / "data/manifest.json").read_text())["sources"]
    assert {name: source["folder"] for name, source in sources.items()} == {name: name for name in demo_english.SOURCES}
    # a copy of the first line has another line's number, but the same text
    assert sources["gutenberg"]["rejected"] == {"exact_duplicate": 3, "json": 3}
    assert {split: part["documents"] for split, part in sources["gutenberg"]["splits"].items()} == dict(
        train=3, valid=3, test=3
    )
    assert all(source["license"] != "unknown" and source["attribution"] for source in sources.values())


@pytest.mark.slow
def test_the_real_wheel_gives_106_articles(tmp_path, run_cli):
    cache = tmp_path / "data/work/cache"
    try:
        download_wheel(GENSIM, cache)
    except FetchError as error:
        pytest.skip(f"the package registry is not reachable: {error}")
    result = run_cli("python", "-m", "data_prep.demo_english", "--output", tmp_path / "data")
    manifest = json.loads((tmp_path / "data/manifest.json").read_text())
    splits = manifest["splits"]
    assert manifest["read"] == 206 and manifest["rejected"] == {"namespace": 1, "redirect": 99}
    assert {name: split["documents"] for name, split in splits.items()} == {"train": 93, "valid": 8, "test": 5}
    assert sum(split["bytes"] for split in splits.values()) > 2_800_000
    # a vocabulary that fits the text: more than three bytes a token
    assert all(split["bytes"] > 3 * split["tokens"] for split in splits.values())
    assert manifest["tokenizer"]["vocab_size"] == manifest["dictionary"]["size"] == 8000
    assert "documents: train 93" in result.stdout
