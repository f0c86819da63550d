"""Answers to questions about images as the official evaluation of VQA compares them: spelling, numbers, punctuation."""

import itertools
import re

# as the official program: a mark next to a space goes, one between letters becomes a space
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = dict(
    zip(
        "none zero one two three four five six seven eight nine ten".split(),
        "0 0 1 2 3 4 5 6 7 8 9 10".split(),
        strict=True,
    )
)
ARTICLES = {"a", "an", "the"}
COMMA_IN_NUMBER = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
# words of the official table; it has I'm and I've too, but in capitals, which nothing equals there
CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've "
    "weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've "
    "why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're "
    "you've"
).split()


def _misspellings(word: str) -> list[str]:
    """The word without one or more of its apostrophes."""
    first, *rest = word.split("'")
    kept = list(itertools.product(("", "'"), repeat=len(rest)))[:-1]
    return [first + "".join(mark + part for mark, part in zip(marks, rest, strict=True)) for marks in kept]


CONTRACTIONS = {wrong: word for word in CONTRACTED for wrong in _misspellings(word)}


def normalize_answer(answer: str) -> str:
    """Lower case, no punctuation, numbers up to ten as digits, no articles, apostrophes where they belong."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    return _words(_without_punctuation(text))


def _without_punctuation(text: str) -> str:
    numbers = COMMA_IN_NUMBER.search(text) is not None
    found = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if beside_space or numbers else " ")
    return PERIOD.sub("", found)


def _words(text: str) -> str:
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
