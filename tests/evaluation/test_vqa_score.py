"""Official scores of answers and statements, against their definitions."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.evaluation.vqa_score import nlvr2_scores, vqa_accuracy, vqa_scores

WORDS = st.sampled_from(["red", "blue", "green"])


@given(WORDS, st.lists(WORDS, min_size=10, max_size=10))
def test_accuracy_is_the_mean_over_all_subsets_of_nine_people(answer, people):
    subsets = list(combinations(people, 9))
    expected = sum(min(1, subset.count(answer) / 3) for subset in subsets) / len(subsets)
    assert vqa_accuracy(answer, people) == pytest.approx(expected)


@pytest.mark.parametrize(("equal", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_accuracy_is_the_soft_score(equal, accuracy):
    others = [f"other {number}" for number in range(10 - equal)]
    assert vqa_accuracy("red", ["red"] * equal + others) == pytest.approx(accuracy)


def test_answers_are_normalised_unless_all_people_agree():
    assert vqa_accuracy("Two.", ["two"] * 9 + ["a 2!"]) == 1
    assert vqa_accuracy("t shirt", ["t-shirt"] * 10) == 0
    assert vqa_accuracy("t-shirt\n", ["t-shirt"] * 10) == 1


def test_scores_by_type_of_answer():
    def annotation(answer, kind):
        return {"answers": [{"answer": answer}] * 10, "answer_type": kind}

    annotations = {1: annotation("yes", "yes/no"), 2: annotation("no", "yes/no"), 3: annotation("3", "number")}
    found = vqa_scores({1: "yes", 2: "yes", 3: "3"}, annotations)
    assert found["vqa_accuracy"] == pytest.approx(200 / 3)
    assert found["by_answer_type"] == {"number": 100, "yes/no": 50}


def test_annotations_of_another_split_are_refused():
    with pytest.raises(ValueError, match="no annotation of 1 of 1 questions, for example 7"):
        vqa_scores({7: "yes"}, {})


def test_consistency_counts_sentences():
    examples = [
        ("dev-1-0-0", True),
        ("dev-1-1-0", True),
        ("dev-1-0-1", True),
        ("dev-1-1-1", False),
        ("dev-2-0-0", False),
        ("other", True),
    ]
    found = nlvr2_scores(examples)
    assert found == {"accuracy": pytest.approx(400 / 6), "consistency": 50, "sentences": 4}
