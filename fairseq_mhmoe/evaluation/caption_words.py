"""Captions as the words that BLEU and CIDEr count: Penn Treebank tokens in lower case without punctuation.

The official COCO evaluation runs Stanford's PTBTokenizer, a Java program that comes with pycocoevalcap. `python_words`
follows its rules where Java is missing; docs/finetuning.md says how often the two differ.
"""

import re
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from fairseq_mhmoe.evaluation.caption_java import JavaProblem, run_java

JAR = "stanford-corenlp-3.4.1.jar"
MAIN_CLASS = "edu.stanford.nlp.process.PTBTokenizer"
# as in pycocoevalcap. Brackets stay, since the tokenizer writes -lrb-, not -LRB-, when it is to write lower case
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
# other ways to write quotes, apostrophes, dashes and an ellipsis
PLAIN = str.maketrans(
    {**dict.fromkeys("‘’ʼ", "'"), **dict.fromkeys("“”«»", '"'), "–": "--", "—": "--", "…": "..."}
    | {"£": "#", "€": "$", "½": "1/2", "¼": "1/4", "¾": "3/4"}
)
COMPOUND = re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b|\b(gim|lem)(me)\b")
TOKEN = re.compile(
    r"""
    https?://\S+
    | (?:[^\W\d_]\.){2,}                        # u.s., a.m.
    | (?:mr|mrs|ms|dr|st|jr|sr|vs|prof|capt|sgt|mt|ft|etc|no(?=\.\s*\d))\.(?=\s*\S)   # but not at the end
    | n't\b | '(?:s|m|d|re|ve|ll)\b | '(?:em|n'|\d\ds?\b)
    | @?\w+?(?=n't\b)                           # do|n't
    | (?:@|\#(?!\d))?\w+(?:(?:[-/&.]|(?<=\d)[,:](?=\d)|'(?!(?:s|m|d|re|ve|ll|t)\b))\w+)*   # o'clock, and/or, 3,000
    | [.]{2,} | -{2,} | [!?]{2,} | [^\w\s]
    """,
    re.VERBOSE,
)


def python_words(caption: str) -> str:
    """The words of a caption with spaces between, without Java."""
    text = "".join(letter for letter in one_line(caption).translate(PLAIN).lower() if ord(letter) <= 0xFFFF)
    text = COMPOUND.sub(lambda match: " ".join(filter(None, match.groups())), text)
    return without_punctuation(_written(token) for token in TOKEN.findall(text))


def java_words(captions: Sequence[str], timeout: float) -> list[str]:
    """The words of each caption as Stanford's PTBTokenizer finds them.

    Args:
        timeout: seconds that it may take.
    Raises:
        JavaProblem: no Java, or the program failed.
    """
    jar = package_folder() / "tokenizer" / JAR
    lines = [one_line(caption) for caption in captions]
    with tempfile.TemporaryDirectory() as folder:
        # the program would not answer to an empty last line
        text = Path(folder) / "captions.txt"
        text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        options = ["-Dfile.encoding=UTF-8", "-cp", jar, MAIN_CLASS, "-preserveLines", "-lowerCase", text]
        output = run_java(options, timeout, cwd=folder).decode("utf-8")
    found = output.split("\n")[:-1]
    if len(found) != len(lines):
        raise JavaProblem(f"the tokenizer gave {len(found)} lines for {len(lines)} captions")
    return [without_punctuation(line.split(" ")) for line in found]


def without_punctuation(tokens) -> str:
    """Those tokens that count, with spaces between."""
    return " ".join(token for token in tokens if token and token not in PUNCTUATION)


def one_line(caption: str) -> str:
    """The caption without line ends and doubled spaces, and without what no text file can hold."""
    return " ".join(caption.encode("utf-8", errors="ignore").decode("utf-8").split())


def package_folder() -> Path:
    """Where pycocoevalcap lies.

    Raises:
        ValueError: it is not installed.
    """
    found = find_spec("pycocoevalcap")
    if found is None:
        raise ValueError("scoring captions needs pycocoevalcap: pip install 'fairseq-mhmoe[multimodal]'")
    return Path(next(iter(found.submodule_search_locations)))


def _written(token: str) -> str:
    """A token as the Treebank writes it."""
    return "''" if token == '"' else "..." if token.startswith("..") else BRACKETS.get(token, token)
