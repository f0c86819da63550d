"""Which sources a split consists of, and how many bytes their text has."""

from types import SimpleNamespace

import pytest

from fairseq_mhmoe.evaluation.parts import bytes_of, parts_of


def counts(documents, tokens=10, nbytes=40):
    return {"documents": documents, "tokens": tokens, "bytes": nbytes}


MANIFEST = {
    "splits": {"valid": counts(5, 30, 90)},
    "sources": {
        "en": {"folder": "en", "splits": {"valid": counts(3)}},
        "de": {"folder": "de", "splits": {"valid": counts(2, 20, 50)}},
        "sw": {"folder": "sw", "splits": {"valid": counts(0, 0, 0)}},
    },
}


def task(*names):
    return SimpleNamespace(source_names=list(names), args=SimpleNamespace(absolute_path=False))


def test_a_split_is_that_of_every_source_with_documents(tmp_path):
    assert parts_of(task("en", "de", "sw"), tmp_path, MANIFEST, "valid") == {"en": "en/valid", "de": "de/valid"}


def test_sources_that_are_not_read_are_no_parts(tmp_path):
    assert parts_of(task("de", "sw"), tmp_path, MANIFEST, "valid") == {"de": "de/valid"}


def test_the_split_of_one_source(tmp_path):
    assert parts_of(task("en", "de", "sw"), tmp_path, MANIFEST, "de/valid") == {"de": "de/valid"}


def test_one_source_is_the_split(tmp_path):
    assert parts_of(task("en"), tmp_path, MANIFEST, "valid") == {"en": "valid"}


def test_a_task_without_sources_has_one_part(tmp_path):
    assert parts_of(SimpleNamespace(), tmp_path, None, "valid") == {"": "valid"}


def test_a_split_that_no_source_has_is_left_to_the_task_to_refuse(tmp_path):
    assert parts_of(task("en", "de"), tmp_path, MANIFEST, "test") == {"en": "test"}


@pytest.mark.parametrize(
    ("name", "split", "expected"), [("de", "de/valid", 50), ("en", "valid", 80), ("other", "valid", 60)]
)
def test_bytes_are_those_of_the_source_or_of_the_split(name, split, expected):
    assert bytes_of(MANIFEST, name, split, 20) == expected


@pytest.mark.parametrize("manifest", [None, {"splits": {}}, {"splits": {"valid": {"tokens": 3}}}])
def test_bytes_that_nobody_counted(manifest):
    assert bytes_of(manifest, "en", "valid", 20) is None
