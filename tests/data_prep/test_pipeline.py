"""Preparation as a whole: text -> ids -> text, the manifest, and the same bytes after any interruption."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sentencepiece
from fairseq.data.indexed_dataset import MMapIndexedDataset

from data_prep.pipeline import prepare
from data_prep.recipe import InputFile, Recipe, Settings
from data_prep.wikitext import plain_text

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    "dict.txt",
    "manifest.json",
    "spm.model",
    *(f"{s}.{e}" for s in ("train", "valid", "test") for e in ("bin", "idx")),
]


@pytest.fixture(scope="module")
def pages(write_articles):
    extra = [("R", 1, "#REDIRECT [[Article 1]]", 0, True), ("Talk:A", 2, "Hello.", 1, False), ("Stub", 3, "Short.")]
    return [*write_articles(60), *extra]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, prepare_dump, pages):
    folder = tmp_path_factory.mktemp("prepared") / "data"
    return folder, prepare_dump(folder, pages)


def hashes(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


def items(folder, split):
    dataset = MMapIndexedDataset(str(folder / split))
    return [dataset[index].tolist() for index in range(len(dataset))]


def test_the_indexes_hold_every_article_once_and_exactly(prepared, pages):
    folder, _ = prepared
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    documents = [item for split in ("train", "valid", "test") for item in items(folder, split)]
    assert all(item[-1] == 2 and 2 not in item[:-1] for item in documents)
    texts = [processor.DecodeIds(item[:-1]) for item in documents]
    assert sorted(texts) == sorted(plain_text(markup) for title, _, markup, *_ in pages if title.startswith("Article"))


def test_the_manifest_counts_what_is_there(prepared):
    folder, manifest = prepared
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    for split, counts in manifest["splits"].items():
        documents = items(folder, split)
        assert counts["documents"] == len(documents) > 0
        assert counts["tokens"] == sum(map(len, documents))
        assert counts["bytes"] == sum(len(processor.DecodeIds(item[:-1]).encode()) for item in documents)
    assert manifest["rejected"] == {"namespace": 1, "redirect": 1, "short": 1}
    documents = sum(counts["documents"] for counts in manifest["splits"].values())
    assert manifest["read"] == documents + sum(manifest["rejected"].values())


def test_the_manifest_has_the_hash_of_every_file(prepared):
    folder, manifest = prepared
    said = {manifest[part]["file"]: manifest[part]["sha256"] for part in ("tokenizer", "dictionary")}
    for counts in manifest["splits"].values():
        for name, file in counts["files"].items():
            said[name] = file["sha256"]
            assert file["size"] == (folder / name).stat().st_size
    assert said == {name: sha256 for name, sha256 in hashes(folder).items() if name != "manifest.json"}
    assert "CC BY-SA" in manifest["license"]


def test_another_folder_gets_the_same_bytes(tmp_path, prepared, prepare_dump, pages):
    dump = prepared[0].parent / "data-dump.xml.bz2"
    (tmp_path / "data-dump.xml.bz2").write_bytes(dump.read_bytes())
    prepare_dump(tmp_path / "data", pages)
    assert hashes(tmp_path / "data") == hashes(prepared[0])


def test_a_second_call_changes_nothing(prepared, prepare_dump, pages):
    folder, manifest = prepared
    before = {name: (folder / name).stat().st_mtime_ns for name in FILES}
    assert prepare_dump(folder, pages) == manifest
    assert {name: (folder / name).stat().st_mtime_ns for name in FILES} == before


@pytest.mark.parametrize("name", ["manifest.json", "spm.model", "train.bin", "valid.idx"])
def test_a_missing_or_changed_file_is_restored(prepared, prepare_dump, pages, name):
    folder, _ = prepared
    before = hashes(folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    prepare_dump(folder, pages)
    assert hashes(folder) == before
    (folder / name).unlink()
    prepare_dump(folder, pages)
    assert hashes(folder) == before


@pytest.mark.parametrize(
    "change", [{"vocab_size": 330}, {"seed": 1}, {"min_chars": 5}, {"valid_share": 0.3}, {"test_share": 0.3}]
)
def test_every_setting_changes_the_output(tmp_path, prepare_dump, pages, change):
    before = prepare_dump(tmp_path / "data", pages)
    after = prepare_dump(tmp_path / "data", pages, **change)
    assert before["splits"] != after["splits"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"vocab_size": 200}, "vocab_size is 200"),
        ({"valid_share": 0.6, "test_share": 0.4}, "leave a rest for training"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


def test_too_few_documents_for_three_splits_are_an_error(tmp_path, prepare_dump, pages):
    with pytest.raises(ValueError, match="no documents for .*: 5 read, 2 accepted, rejected: .*redirect.*another seed"):
        prepare_dump(tmp_path / "data", pages[58:])
    assert not (tmp_path / "data/manifest.json").exists()


def test_two_calls_at_once_are_refused(tmp_path, prepare_dump, pages):
    lock = tmp_path / "data/work/lock"
    lock.parent.mkdir(parents=True)
    hold = f"import fcntl; f = open({str(lock)!r}, 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(RuntimeError, match="another process prepares"):
            prepare_dump(tmp_path / "data", pages)
        other.communicate(b"\n")
    assert prepare_dump(tmp_path / "data", pages)


def test_two_files_are_two_tasks_and_nothing_is_lost(tmp_path, prepared, write_dump, pages):
    for number, part in enumerate((pages[:30], pages[30:])):
        write_dump(tmp_path / f"part{number}.xml.bz2", part)
    inputs = tuple(InputFile(path, "wikipedia", "wiki") for path in sorted(tmp_path.glob("*.bz2")))
    settings = Settings(vocab_size=320, min_chars=20, valid_share=0.1, test_share=0.1)
    manifest = prepare(Recipe("parts", inputs, flat=True), settings, tmp_path / "data")
    assert len(list(tmp_path.glob("data/work/*/logs/text/completions/*"))) == 2
    # the parts in their order are the articles of the one file in their order
    folder, whole = prepared
    assert manifest["splits"] == whole["splits"] and manifest["rejected"] == whole["rejected"]


PREPARE = """
import sys
from pathlib import Path
from data_prep.pipeline import prepare
from data_prep.recipe import InputFile, Recipe, Settings
folder = Path(sys.argv[1])
inputs = [InputFile(path, "wikipedia", "wiki") for path in sorted(folder.glob("*.bz2"))]
inputs += [InputFile(path, "jsonl", "web") for path in sorted(folder.glob("*.jsonl"))]
settings = Settings(vocab_size=320, min_chars=20, valid_share=0.1, test_share=0.1, exact_dedup=True, shard_tokens=4000)
prepare(Recipe("killed", tuple(inputs)), settings, Path(sys.argv[2]))
"""
STAGES = ("text", "exact-search", "unique", "vocabulary", "publish")


@pytest.mark.slow
def test_calls_that_were_killed_are_continued_to_the_same_bytes(tmp_path, write_dump, write_jsonl, make_texts, pages):
    for number in range(2):
        write_dump(tmp_path / f"{number}.xml.bz2", pages[number::2])
    write_jsonl(tmp_path / "a.jsonl", [*make_texts(60), *make_texts(10), b"{broken\n"])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def start(output):
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PREPARE, str(tmp_path), str(output)],
            env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    assert start(tmp_path / "whole").wait() == 0
    rng = random.Random(0)
    killed = 0
    # each call may go one stage further; killed soon after it began to write there
    for stage in STAGES:
        process = start(tmp_path / "data")
        while process.poll() is None and not list(tmp_path.glob(f"data/work/*/logs/{stage}/executor.json")):
            time.sleep(0.005)
        time.sleep(rng.random() * 0.2)
        killed += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert killed >= 3
    assert start(tmp_path / "data").wait() == 0
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    published = [path for path in files if path.parts[0] != "work"]
    assert len(published) > 15
    for path in published:
        assert (tmp_path / "data" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes(), path
    left = [path for path in (tmp_path / "data").rglob("*") if path.is_file() and "work" not in path.parts]
    assert len(left) == len(published)
