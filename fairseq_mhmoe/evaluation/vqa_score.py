"""Scores of answers about images: the official accuracy of VQA, accuracy and consistency of NLVR2."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from data_prep.vqa_answers import normalize_answer


def vqa_accuracy(answer: str, people: list[str]) -> float:
    """Accuracy of one answer: min(1, equal answers / 3) over the others, each person left out once, on average.

    Args:
        people: what (ten) people answered. Where they all agree nothing is normalised, as in the official program.
    """
    people, answer = [_one_line(each) for each in people], _one_line(answer)
    if len(set(people)) > 1:
        answer, people = normalize_answer(answer), [normalize_answer(each) for each in people]
    equal = [each == answer for each in people]
    return sum(min(1.0, (sum(equal) - own) / 3) for own in equal) / len(equal)


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def vqa_scores(answers: Mapping[int, str], annotations: Mapping[int, dict]) -> dict:
    """Official accuracy in percent of all answers, and by type of answer.

    Args:
        answers: by question_id. annotations: by question_id, official ones ("answers", "answer_type").
    Raises:
        ValueError: an answer to a question without annotation.
    """
    missing = [number for number in answers if number not in annotations]
    if missing:
        raise ValueError(
            f"no annotation of {len(missing)} of {len(answers)} questions, for example {missing[0]}; give the "
            "annotations of the split that was answered"
        )
    by_type = defaultdict(list)
    for number, answer in answers.items():
        annotation = annotations[number]
        score = vqa_accuracy(answer, [each["answer"] for each in annotation["answers"]])
        by_type[annotation.get("answer_type", "unknown")].append(score)
    scores = [score for of_type in by_type.values() for score in of_type]
    return {
        "vqa_accuracy": 100 * sum(scores) / len(scores),
        "by_answer_type": {name: 100 * sum(part) / len(part) for name, part in sorted(by_type.items())},
    }


def nlvr2_scores(examples: Iterable[tuple[str, bool]]) -> dict:
    """Accuracy in percent, and consistency: sentences all of whose examples are right.

    Args:
        examples: (identifier "dev-850-0-1", whether its prediction is right). Examples of one sentence differ in the
            third part.
    """
    right, sentences = [], defaultdict(lambda: True)
    for identifier, correct in examples:
        right.append(correct)
        parts = identifier.split("-")
        sentence = "-".join(parts[:2] + parts[3:]) if len(parts) > 3 else identifier
        sentences[sentence] = sentences[sentence] and correct
    return {
        "accuracy": 100 * sum(right) / len(right),
        "consistency": 100 * sum(sentences.values()) / len(sentences),
        "sentences": len(sentences),
    }
