"""The demonstration corpus from the command line, with a wheel made here and with the real one."""

import json
import zipfile

import pytest

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
