"""The benchmark of the corpus preparation: its corpora and its rows, and that memory doesn't grow with the corpus."""

import itertools
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from data_preparation import given_paragraphs, growth, made_up_paragraphs, parse, write_corpus


def test_made_up_words_are_the_same_every_time_and_not_all_as_frequent():
    first, second = (list(itertools.islice(made_up_paragraphs(1000), 50)) for _ in range(2))
    assert first == second
    words = " ".join(first).replace(".", "").split()
    counts = sorted(map(words.count, set(words)), reverse=True)
    assert counts[0] > 10 * counts[len(counts) // 2]


def test_given_text_is_repeated(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"line {number}" for number in range(10)))
    (tmp_path / "b.txt").write_text("last\n\n")
    parts = list(itertools.islice(given_paragraphs([tmp_path / "a.txt", tmp_path / "b.txt"]), 4))
    assert parts[1:] == ["line 8\nline 9", "last", parts[0]]


def test_the_corpus_has_the_size_asked_for(tmp_path):
    inputs = write_corpus(tmp_path, 1, made_up_paragraphs(1000))
    texts = [json.loads(line)["text"] for file in inputs for line in file.path.read_text().splitlines()]
    assert len(inputs) == 4 and 1e6 <= sum(map(len, texts)) < 1.05e6


def test_growth_compares_the_largest_with_the_smallest_corpus():
    row = dict(tokenizer="train", stage="index")
    rows = [dict(row, megabytes=mb, peak_mib=peak) for mb, peak in ((40, 100.0), (160, 110.0), (80, 300.0))]
    assert growth(rows) == {"train index": pytest.approx(1.1)}


@pytest.mark.parametrize(
    "words, message",
    [(["--megabytes", "0"], "0: expected 1 or more"), (["--text", "none.txt"], "none.txt: expected a file with text")],
)
def test_impossible_options_are_refused(capsys, words, message):
    with pytest.raises(SystemExit):
        parse(words)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_memory_does_not_grow_and_a_core_does_400_000_tokens_a_second(run_program, tmp_path):
    target = tmp_path / "figures.json"
    sizes = ["--megabytes", 1, 3, "--vocab-size", 1000, "--spm-characters", 100_000]
    result = run_program("benchmarks/data_preparation.py", *sizes, "--folder", tmp_path, "--json", target)
    content = json.loads(target.read_text())
    assert [row["stage"] for row in content["rows"]] == ["text", "vocabulary", "index", "publish"] * 2
    assert max(content["growth"].values()) < 1.2
    assert content["rows"][-2]["tokens_per_s"] > 400_000
    assert content["machine"]["cpu"] and "| train | 3 | index |" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
