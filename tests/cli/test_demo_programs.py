"""Subprocesses of the demonstration: output, errors, and when an earlier result may be used again."""

import json
import sys

import pytest

from fairseq_mhmoe.cli import demo_programs
from fairseq_mhmoe.cli.demo_programs import StepFailed, data_hash, fingerprint, finished, log_figures, minutes, run
from fairseq_mhmoe.cli.files import write_json


def test_output_is_returned_logged_and_handed_on(tmp_path):
    log, seen = tmp_path / "folder" / "log", []
    output = run([sys.executable, "-c", "print('one'); print('two')"], log, threads=1, on_line=seen.append)
    assert output == log.read_text() == "one\ntwo\n"
    assert seen == ["one\n", "two\n"]


def test_number_of_threads_reaches_the_program(tmp_path):
    assert run([sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"], tmp_path / "log", 3) == "3\n"


def test_failure_names_command_status_and_log(tmp_path):
    with pytest.raises(StepFailed, match=r"(?s)no such luck.*exit status 7 of: .*log"):
        run([sys.executable, "-c", "print('no such luck'); raise SystemExit(7)"], tmp_path / "log", threads=1)


def test_interruption_ends_the_program(tmp_path):
    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([sys.executable, "-uc", "print(1); import time; time.sleep(60)"], tmp_path / "log", 1, on_line=interrupt)


def test_figures_of_a_log_line():
    line = '2026-01-01 00:00:00 | INFO | train_inner | {"epoch": 1, "wps": "12.5"}\n'
    assert log_figures(line, "train_inner") == {"epoch": 1, "wps": "12.5"}
    assert log_figures(line, "train") is None
    assert log_figures("2026 | INFO | train_inner | epoch 1: wps=12\n", "train_inner") is None


def test_result_is_used_again_only_under_its_key(tmp_path):
    path = tmp_path / "result.json"
    assert finished(path, "a") is None
    write_json(path, {"fingerprint": "a", "value": 1})
    assert finished(path, "a")["value"] == 1
    assert finished(path, "b") is None
    path.write_text('{"fingerprint": "a", "val')
    assert finished(path, "a") is None


def test_fingerprint_depends_on_every_part():
    assert fingerprint(["a"], "b") == fingerprint(["a"], "b")
    assert len({fingerprint(["a"], "b"), fingerprint(["a", "b"]), fingerprint(["a"], "c")}) == 3


def test_data_hash_sees_the_files_and_not_the_description():
    manifest = {"name": "x", "dictionary": {"sha256": "1"}, "splits": {"train": {"files": {"train.bin": "2"}}}}
    renamed = manifest | {"name": "y"}
    changed = manifest | {"splits": {"train": {"files": {"train.bin": "3"}}}}
    assert data_hash(manifest) == data_hash(renamed) != data_hash(changed)


def test_code_hash_sees_a_changed_line(tmp_path, monkeypatch):
    (tmp_path / "moe").mkdir()
    source = tmp_path / "moe" / "layer.py"
    monkeypatch.setattr(demo_programs, "PACKAGE", tmp_path)
    hashes = set()
    for text in ("a = 1\n", "a = 2\n"):
        source.write_text(text)
        hashes.add(demo_programs.code_hash())
    assert len(hashes) == 2


def test_minutes():
    assert [minutes(s) for s in (0, 59.9, 75, 3600)] == ["0:00", "0:59", "1:15", "60:00"]


def test_json_is_written_whole_and_alone(tmp_path):
    write_json(tmp_path / "new" / "x.json", {"a": [1]})
    assert json.loads((tmp_path / "new" / "x.json").read_text()) == {"a": [1]}
    with pytest.raises(TypeError):
        write_json(tmp_path / "new" / "x.json", {"a": object()})
    assert json.loads((tmp_path / "new" / "x.json").read_text()) == {"a": [1]}
