"""A list of answers counts from 0, without gaps and without twins."""

import pytest

from fairseq_mhmoe.data.answers import read_answers


def test_answers_by_label(tmp_path):
    path = tmp_path / "answer2label.txt"
    path.write_text('{"answer": "yes", "label": 0}\n{"answer": "naïve", "label": "1"}\n')
    assert read_answers(path) == ["yes", "naïve"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"answer": "a", "label": 0}\n{"answer": "b", "label": 2}', "line 2: label 2, expected 1"),
        ('{"answer": "a", "label": 0}\n{"answer": "a", "label": 1}', "has the answer 'a' more than once"),
        ('{"answer": "a", "label": 0}', "has 1 answers"),
        ("yes\nno\n", "line 1: 'yes', expected"),
        ('{"answer": 3, "label": 0}', "line 1"),
    ],
)
def test_another_file_is_refused(tmp_path, content, words):
    path = tmp_path / "answer2label.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=words):
        read_answers(path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ValueError, match="no list of answers .*x.txt; data_prep.vqa writes it, or give --answers"):
        read_answers(tmp_path / "x.txt")
