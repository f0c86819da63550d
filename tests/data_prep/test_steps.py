"""The reading step: every record is a document or counted as rejected, and no error lacks a place."""

import gzip
import json

import pytest
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.filters import LengthFilter, SampleFilter
from data_prep.formats import FORMATS
from data_prep.opening import DamagedFile
from data_prep.recipe import InputFile
from data_prep.steps import MAX_SUBSETS, AfterStage, ReadInputs, ReadTask, subset_name


def reader(work, path, min_chars=3, sample=1.0, split_subsets=True, allow=False, **attributes):
    inputs = [InputFile(path, "jsonl", "web", **attributes)]
    return ReadInputs(inputs, str(work), LengthFilter(min_chars), SampleFilter(sample), split_subsets, allow)


def totals(step):
    return {label: int(stats.total) for label, stats in step.stats.stats.items()}


def test_every_record_is_taken_or_rejected_with_its_place(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "a.jsonl", ["first", b"{no json\n", {"text": 5}, "ab", "second"])
    step = reader(tmp_path / "work", path)
    assert [document.text for document in step.run(None, 0, 1)] == ["first", "second"]
    assert totals(step) == {
        "read/web": 5, "rejected/web/json": 1, "rejected/web/text_type": 1, "rejected/web/short": 1
    }  # fmt: skip
    rejected = (tmp_path / "work/rejected/00000.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in rejected] == [
        ["json", "line 2", "web"],
        ["text_type", "line 3", "web"],
        ["short", "document 4", "web"],
    ]
    assert json.loads((tmp_path / "work/inputs/00000.json").read_text())["size"] == path.stat().st_size


@given(lines=st.lists(st.binary(max_size=30), max_size=8))
@settings(max_examples=30)
def test_whatever_the_lines_are_none_is_lost(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("lines")
    good = json.dumps({"text": "a good line"}).encode()
    (folder / "a.jsonl").write_bytes(b"\n".join([good, *lines]))
    step = reader(folder / "work", folder / "a.jsonl")
    try:
        taken = list(step.run(None, 0, 1))
    except DamagedFile as error:
        assert "a.jsonl" in str(error)
        return
    counts = totals(step)
    assert counts["read/web"] == len(taken) + sum(n for label, n in counts.items() if label.startswith("rejected/"))
    assert taken[0].text == "a good line"


def test_damage_stops_the_run_or_is_noted(tmp_path, write_jsonl):
    whole = write_jsonl(tmp_path / "a.jsonl", ["text one", "text two"] * 2000).read_bytes()
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(whole)[:-12])
    with pytest.raises(DamagedFile, match="a.jsonl.gz"):
        list(reader(tmp_path / "work", path).run(None, 0, 1))
    assert not (tmp_path / "work/inputs/00000.json").exists()
    assert list(reader(tmp_path / "work", path, allow=True).run(None, 0, 1))
    damage = json.loads((tmp_path / "work/inputs/00000.json").read_text())["damage"]
    assert damage.startswith("a.jsonl.gz") and str(tmp_path) not in damage


def test_parts_of_a_mixed_file_become_sources(tmp_path, write_jsonl):
    entries = [{"text": "one", "meta": {"redpajama_set_name": name}} for name in ("C4", "Book", "C4")]
    path = write_jsonl(tmp_path / "a.jsonl", [*entries, "four"])
    named = [document.metadata["source"] for document in reader(tmp_path / "work", path).run(None, 0, 1)]
    assert named == ["web-C4", "web-Book", "web-C4", "web"]
    together = reader(tmp_path / "work", path, split_subsets=False).run(None, 0, 1)
    assert {document.metadata["source"] for document in together} == {"web"}


def test_names_of_parts_stay_inside_the_folder_and_apart():
    names = [subset_name("web", name) for name in ("a/b", "a_b", "../x", "..", "x" * 200, "x" * 201, "é", "\ud800")]
    assert len(set(names)) == len(names)
    assert all(name.startswith("web-") and "/" not in name and len(name) < 60 for name in names)


def test_a_part_a_line_is_refused(tmp_path, write_jsonl):
    entries = [{"text": "one", "red_pajama_subset": f"n{number}"} for number in range(MAX_SUBSETS + 1)]
    path = write_jsonl(tmp_path / "a.jsonl", entries)
    with pytest.raises(ValueError, match="a.jsonl: more than 64 subsets.*--no-split-subsets"):
        list(reader(tmp_path / "work", path).run(None, 0, 1))


@pytest.mark.parametrize("error", [KeyError("oh"), ValueError("oh")])
def test_an_error_of_a_format_names_file_and_record(tmp_path, write_jsonl, monkeypatch, error):
    def read(stream, name):
        yield Document(text="good", id="1")
        raise error

    monkeypatch.setitem(FORMATS, "jsonl", FORMATS["jsonl"]._replace(read=read))
    path = write_jsonl(tmp_path / "a.jsonl", ["x"])
    with pytest.raises(RuntimeError, match="a.jsonl: reading as jsonl failed after 1 records: .*Error: .?oh"):
        list(reader(tmp_path / "work", path).run(None, 0, 1))


def test_what_a_sample_leaves_out_is_counted_but_not_listed(tmp_path, write_jsonl, make_texts):
    path = write_jsonl(tmp_path / "a.jsonl", make_texts(100))
    step = reader(tmp_path / "work", path, sample=0.3)
    taken = len(list(step.run(None, 0, 1)))
    assert totals(step) == {"read/web": 100, "rejected/web/not_sampled": 100 - taken} and 10 < taken < 60
    assert (tmp_path / "work/rejected/00000.jsonl").read_text() == ""


def test_a_stage_waits_for_all_tasks_of_the_one_before(tmp_path):
    step = AfterStage(str(tmp_path), 2)
    (tmp_path / "completions").mkdir()
    (tmp_path / "completions/00000").touch()
    with pytest.raises(RuntimeError, match="1 of 2 tasks of .* are not finished, the first is 1"):
        step.run(None)
    (tmp_path / "completions/00001").touch()
    assert step.run(["x"]) == ["x"]


def test_a_task_that_wrote_nothing_has_no_documents(tmp_path):
    assert list(ReadTask(str(tmp_path)).run(None, 3, 4)) == []
