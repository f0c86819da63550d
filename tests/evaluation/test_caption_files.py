"""Result files and reference captions, and files that are neither."""

import json

import pytest

from fairseq_mhmoe.data.captioning import check_image_record
from fairseq_mhmoe.data.index_files import IndexFiles
from fairseq_mhmoe.evaluation.caption_files import find_references, official_results, read_references, read_results


def write(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def records(tmp_path):
    lines = [{"image_path": "a.png", "image_id": 1, "text": text} for text in ("a dog", "the dog")]
    lines.append({"image_path": "b.png", "image_id": 2, "text_segment": "a cat"})
    path = tmp_path / "captioning.test.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return IndexFiles([path], check_image_record)


def annotations(**captions):
    return {"annotations": [{"image_id": int(key[1:]), "caption": text} for key, text in captions.items()]}


def test_references_are_those_given_or_of_the_folder_or_of_the_index(tmp_path, records):
    assert find_references(tmp_path, "test", records, None) == {1: ["a dog", "the dog"], 2: ["a cat"]}
    write(tmp_path / "captioning.test.references.json", annotations(n1="x", n2="y", n3="z"))
    assert find_references(tmp_path, "test", records, None) == {1: ["x"], 2: ["y"]}
    given = write(tmp_path / "other.json", annotations(n2="u", n1="v"))
    assert find_references(tmp_path, "test", records, given) == {1: ["v"], 2: ["u"]}


def test_references_that_lack_an_image_are_told(tmp_path, records):
    given = write(tmp_path / "other.json", annotations(n1="v"))
    with pytest.raises(ValueError, match="no captions of 1 of 2 images, for example 2"):
        find_references(tmp_path, "test", records, given)


@pytest.mark.parametrize("text", [{"text_segment": None}, {"text_segment": [5, 6]}, {}])
def test_an_index_without_strings_has_no_references(tmp_path, text):
    path = tmp_path / "captioning.test.jsonl"
    path.write_text(json.dumps({"image_path": "a.png", "image_id": 1, **text}))
    assert find_references(tmp_path, "test", IndexFiles([path], check_image_record), None) == {}


def test_results_are_read_as_they_are_written(tmp_path):
    captions = [{"image_id": 2, "caption": "a", "score": -1.0}, {"image_id": 1, "caption": "", "score": -2.0}]
    results = official_results(captions)
    assert results == [{"image_id": 2, "caption": "a"}, {"image_id": 1, "caption": ""}]
    assert read_results(write(tmp_path / "r.json", results)) == {2: "a", 1: ""}


@pytest.mark.parametrize(
    "content, words",
    [
        ([{"image_id": 1}], "no captions .*'caption'"),
        ([{"image_id": "1", "caption": "a"}], "no captions .*image_id '1'"),
        ([{"image_id": 1, "caption": None}], "no captions .*caption None"),
        ({"image_id": 1}, "no captions"),
        ([{"image_id": 1, "caption": "a"}] * 2, "2 captions of 1 images"),
    ],
)
def test_what_is_no_result_file_is_refused(tmp_path, content, words):
    with pytest.raises(ValueError, match=words):
        read_results(write(tmp_path / "r.json", content))


def test_what_is_no_annotation_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no annotations of captions"):
        read_references(write(tmp_path / "r.json", {"images": []}))
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        read_references(tmp_path / "r.json")
    with pytest.raises(ValueError, match="can't be read: No such file"):
        read_references(tmp_path / "none.json")
