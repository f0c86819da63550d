"""Scores of captions: known figures, Java that is missing, hangs or fails, words with and without Java."""

import math
import os
import stat
import sys

import pytest

from fairseq_mhmoe.evaluation import caption_java, caption_metrics, caption_words
from fairseq_mhmoe.evaluation.caption_java import JavaProblem, find_java
from fairseq_mhmoe.evaluation.caption_metrics import METRICS, PYTHON, STANFORD, score_captions, table_row
from fairseq_mhmoe.evaluation.caption_words import java_words, python_words

CAPTIONS = {7: "A man rides a wave.", 3: "Two dogs play in the snow."}
REFERENCES = {
    3: ["two dogs are playing in snow", "Two dogs play in the snow!"],
    7: ["a man riding a wave on a surfboard", "a surfer on a big wave"],
}
needs_java = pytest.mark.skipif(find_java() is None, reason="Java is not installed")


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")


@pytest.fixture
def fake_java(tmp_path, monkeypatch):
    """fake_java(source): a command `java` that runs these lines of Python."""

    def make(source):
        path = tmp_path / "bin" / "java"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\nimport sys, time, json\n{source}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))

    return make


def test_scores_that_one_can_count(no_java):
    report = score_captions(CAPTIONS, REFERENCES)
    scores = report["scores"]
    # 11 words, of which all 6 of the dogs and a, man, a, wave are in a reference; lengths 11 and closest 6 + 6
    brevity = math.exp(1 - 12 / 11)
    assert math.isclose(scores["BLEU@1"], brevity * 10 / 11, rel_tol=1e-6)
    # pairs of words: 5 of the dogs, "a man" and "a wave" of the four
    assert math.isclose(scores["BLEU@2"], brevity * math.sqrt(10 / 11 * 7 / 9), rel_tol=1e-6)
    assert scores["METEOR"] is None and scores["SPICE"] is None and 0 < scores["CIDEr"] <= 10
    assert report["images"] == 2 and report["references"] == 4 and report["image_ids"] == [3, 7]
    assert report["of_images"]["BLEU@4"][0] > 0.99 and report["of_images"]["CIDEr"][0] > report["of_images"]["CIDEr"][1]


def test_without_java_the_report_says_what_is_missing(no_java):
    report = score_captions(CAPTIONS, REFERENCES)
    assert report["tokenizer"] == PYTHON
    assert report["notes"]["METEOR"] == report["notes"]["SPICE"] == "Java is not installed"
    assert report["notes"]["tokenizer"] == "not the official one: Java is not installed"
    row = table_row("test", report)
    assert len(row) == 2 + len(METRICS) and row[2 + METRICS.index("SPICE")] == "-"
    assert row[2 + METRICS.index("BLEU@1")] == f"{100 * report['scores']['BLEU@1']:.1f}"


def test_a_caption_like_its_references_has_the_best_scores(no_java):
    references = {1: ["a red bus in the street"], 2: ["two dogs play with a ball"]}
    scores = score_captions({number: each[0] for number, each in references.items()}, references)["scores"]
    assert math.isclose(scores["BLEU@4"], 1, rel_tol=1e-6) and math.isclose(scores["CIDEr"], 10, rel_tol=1e-6)


def test_an_empty_caption_counts_and_breaks_nothing(no_java):
    report = score_captions({3: "", 7: "..."}, REFERENCES)
    assert report["scores"]["CIDEr"] == 0 and report["scores"]["BLEU@1"] < 1e-6


def test_one_image_alone_is_noted(no_java):
    assert "always 0" in score_captions({3: CAPTIONS[3]}, {3: REFERENCES[3]})["notes"]["CIDEr"]


@pytest.mark.parametrize(
    "captions, references, words",
    [
        ({3: "a"}, REFERENCES, "no caption for 1 of 2 images, for example 7"),
        ({**CAPTIONS, 9: "a"}, REFERENCES, "1 captions are of images without references, for example 9"),
        (CAPTIONS, {**REFERENCES, 3: []}, "image 3 has no reference caption"),
        ({}, {}, "there are no references"),
    ],
)
def test_captions_and_references_of_different_images_are_refused(captions, references, words):
    with pytest.raises(ValueError, match=words):
        score_captions(captions, references, java=False)


def test_java_that_hangs_is_ended(fake_java):
    fake_java("time.sleep(60)")
    report = score_captions(CAPTIONS, REFERENCES, timeout=0.3)
    assert report["tokenizer"] == PYTHON
    assert report["notes"]["tokenizer"] == "not the official one: no answer within 0.3 s"
    assert report["notes"]["METEOR"] == "no answer within 0.3 s"


def test_java_that_fails_is_told_with_its_words(fake_java):
    fake_java("sys.stderr.write('Error: out of memory'); sys.exit(3)")
    with pytest.raises(JavaProblem, match="java ended with status 3: Error: out of memory"):
        java_words(["a"], 10)
    with pytest.raises(JavaProblem, match="it stopped answering: Error: out of memory"):
        caption_java.meteor(["a"], [["a"]], caption_words.package_folder(), 10)


def test_a_tokenizer_that_loses_lines_is_not_believed(fake_java):
    fake_java("print('a')")
    with pytest.raises(JavaProblem, match="1 lines for 2 captions"):
        java_words(["a", "b"], 10)


def test_spice_without_its_models_downloads_nothing(tmp_path, fake_java):
    fake_java("sys.exit('never called')")
    with pytest.raises(JavaProblem, match="stanford-corenlp-3.6.0-models.jar .*which nothing here downloads"):
        caption_java.spice(["a"], [["a"]], tmp_path, 10)


def test_spice_with_its_models_is_asked_and_read(tmp_path, fake_java):
    (tmp_path / "spice" / "lib").mkdir(parents=True)
    for name in caption_java.SPICE_MODELS:
        (tmp_path / "spice" / "lib" / name).touch()
    fake_java(
        "asked = json.load(open(sys.argv[sys.argv.index('-jar') + 2]))\n"
        "answer = [{'image_id': e['image_id'], 'scores': {'All': {'f': len(e['refs']) / 4}}} for e in asked[::-1]]\n"
        "json.dump(answer, open(sys.argv[sys.argv.index('-out') + 1], 'w'))"
    )
    assert caption_java.spice(["a", "b"], [["a"], ["c", "d"]], tmp_path, 10) == (0.375, [0.25, 0.5])
    fake_java("json.dump([], open(sys.argv[sys.argv.index('-out') + 1], 'w'))")
    with pytest.raises(JavaProblem, match="can't be read"):
        caption_java.spice(["a"], [["a"]], tmp_path, 10)


def test_words_are_those_of_the_treebank():
    words = {
        "A man's dog, on the street.": "a man 's dog on the street",
        "They don't - cannot - wait!": "they do n't can not wait",
        "a black-and-white photo at 10:30 a.m. in the U.S.": "a black-and-white photo at 10:30 a.m. in the u.s.",
        "“quoted” (in brackets) o’clock": "quoted -lrb- in brackets -rrb- o'clock",
        "3,000 people and/or 50% of #5 😀": "3,000 people and/or 50 % of # 5",
        "two\nlines\u2028here": "two lines here",
        "": "",
    }
    assert {caption: python_words(caption) for caption in words} == words


@needs_java
def test_java_finds_the_same_words():
    captions = [
        *CAPTIONS.values(), *sum(REFERENCES.values(), []), "", "A man's dog, on the street.", "They don't wait!",
        "a black-and-white photo at 10:30 a.m. in the U.S.", "“quoted” (in brackets) o'clock, don’t", "café ñ",
        "3,000 people and/or 50% of #5 😀", "two\nlines\u2028here", "what?! a table.The man \ud800 end",
    ]  # fmt: skip
    assert java_words(captions, 60) == [python_words(caption) for caption in captions]


METEOR = """
for line in iter(sys.stdin.readline, ""):
    fields = line.strip().split(" ||| ")
    if fields[0] == "SCORE":
        print(len(set(fields[-1].split()) & set(" ".join(fields[1:-1]).split())), len(fields) - 2, flush=True)
    else:
        shares = [int(field.split()[0]) / 10 for field in fields[1:]]
        print(*shares, sum(shares) / len(shares), sep="\\n", flush=True)
"""


def test_meteor_is_asked_as_the_official_evaluation_asks_it(fake_java):
    fake_java(METEOR)
    captions, references = ["a man on a wave", "a ||| dog"], [["the man", "a wave"], ["a dog"]]
    score, of_images = caption_java.meteor(captions, references, caption_words.package_folder(), 30)
    assert of_images == [0.3, 0.2] and score == 0.25


@needs_java
@pytest.mark.skipif(
    "MHMOE_TEST_METEOR" not in os.environ, reason="takes minutes on a busy machine; MHMOE_TEST_METEOR=1"
)
def test_meteor_is_that_of_pycocoevalcap(monkeypatch):
    # what pycocoevalcap's own class gives for these words
    monkeypatch.setattr(caption_metrics, "spice", lambda *parts: (0.25, [0.25, 0.25]))
    report = score_captions(CAPTIONS, REFERENCES)
    assert report["tokenizer"] == STANFORD and report["notes"] == {}
    assert report["scores"]["SPICE"] == 0.25
    assert math.isclose(report["scores"]["METEOR"], 0.50286, abs_tol=1e-4)
    assert report["of_images"]["METEOR"] == pytest.approx([1.0, 0.36317], abs=1e-4)
