"""Answers in a file: the same as computed ones, and nothing but data."""

import json
import shutil

import pytest

from data_prep.files import sha256_of
from fairseq_mhmoe.evaluation.harness import HarnessModel
from fairseq_mhmoe.evaluation.harness_cache import AnswerCache, key_of

PAIRS = [("the history of", " the system"), ("", "the city"), ("the history of", " the people")]


def answers(model, ask):
    """Of all three kinds; what was computed and what came out of the cache."""
    before = dict(model.counts)
    found = (
        model.loglikelihood(ask("loglikelihood", *PAIRS)),
        model.loglikelihood_rolling(ask("loglikelihood_rolling", ("the history of the system " * 9,))),
        model.generate_until(ask("generate_until", ("the city", {"max_gen_toks": 4}))),
    )
    return found, model.counts["computed"] - before["computed"], model.counts["cached"] - before["cached"]


def test_a_second_run_computes_nothing_and_answers_the_same(loaded, ask, tmp_path):
    path = tmp_path / "folder" / "cache.jsonl"
    model = HarnessModel(loaded, cache=path)
    first, computed, cached = answers(model, ask)
    assert (computed, cached) == (len(path.read_text().splitlines()), 0)
    assert answers(model, ask) == (first, 0, computed)
    model.cache.close()
    again = HarnessModel(loaded, cache=path)
    assert answers(again, ask) == (first, 0, computed)
    again.cache.close()


def test_an_interrupted_line_is_asked_again(loaded, ask, tmp_path):
    path = tmp_path / "cache.jsonl"
    model = HarnessModel(loaded, cache=path)
    first, computed, _ = answers(model, ask)
    model.cache.close()
    path.write_bytes(path.read_bytes()[:-20])
    again = HarnessModel(loaded, cache=path)
    assert answers(again, ask) == (first, 1, computed - 1)
    again.cache.close()
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == computed


def test_sampled_texts_repeat_with_their_seed(loaded, ask, tmp_path):
    request = ask("generate_until", ("the city", {"max_gen_toks": 4, "temperature": 1.0}))
    found = []
    for seed in (1, 1, 2):
        model = HarnessModel(loaded, cache=tmp_path / "cache.jsonl", seed=seed)
        model.generate_until(request)
        model.cache.close()
        found.append(model.counts["computed"])
    assert found == [1, 0, 1]


def test_another_checkpoint_gets_answers_of_its_own(checkpoint, loaded, tmp_path):
    other = tmp_path / "other.pt"
    shutil.copy(checkpoint, other)
    assert sha256_of(other) == sha256_of(checkpoint)
    with open(other, "ab") as file:
        file.write(b" ")
    assert sha256_of(other) != sha256_of(checkpoint)
    model = HarnessModel(loaded)
    assert model.identity[1] == sha256_of(checkpoint)
    assert key_of(*model.identity, "x") != key_of(*model.identity[:1], sha256_of(other), *model.identity[2:], "x")


@pytest.mark.parametrize("line", ["{", '{"key": 1, "answer": "x"}', '{"key": "a"}', '{"key": "a", "answer": [1, 2]}'])
def test_a_file_of_something_else_is_refused(tmp_path, line):
    path = tmp_path / "cache.jsonl"
    path.write_text(json.dumps({"key": "a", "answer": [-1.0, True]}) + "\n" + line + "\n")
    with pytest.raises(ValueError, match="line 2: no answer"):
        AnswerCache(path)


def test_one_program_at_a_time(tmp_path):
    first = AnswerCache(tmp_path / "cache.jsonl")
    with pytest.raises(ValueError, match="another program uses it"):
        AnswerCache(tmp_path / "cache.jsonl")
    first.close()
    AnswerCache(tmp_path / "cache.jsonl").close()
