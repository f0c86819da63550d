"""Log-likelihoods for lm-evaluation-harness: those that one gets by hand from the model's logits."""

import logging
from types import SimpleNamespace

import pytest
import torch

from fairseq_mhmoe.evaluation.harness import HarnessModel
from fairseq_mhmoe.evaluation.harness_scoring import POSITIONS, make_batches, plan, rows_meet, score_batch
from fairseq_mhmoe.evaluation.harness_tokens import RequestTokens, Window
from fairseq_mhmoe.evaluation.loading import load_checkpoint

from .conftest import LONGEST, ByHand

LONG = "the history of the system and the city of the government in this century was the first one of its people "
PAIRS = {
    "several tokens": ("the history of", " the system and the city"),
    "one token": ("the history of", " the"),
    "no context": ("", "the system"),
    "space at the end of the context": ("the history of ", "the system"),
    "a line end at the end of the context": ("Question: who?\nAnswer:\n", "the people"),
    "characters without pieces": ("Größe", " für 漢字"),
    "context longer than the model": (LONG * 3, " and the city of"),
    "both longer than the model": (LONG, " " + LONG * 2),
    "no context, longer than the model": ("", LONG * 2),
    "joined with the context": ("the hist", "ory of"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_loglikelihood_is_that_of_the_logits(loaded, by_hand, ask, name):
    [(log_prob, greedy)] = HarnessModel(loaded).loglikelihood(ask("loglikelihood", PAIRS[name]))
    expected, expected_greedy = by_hand.loglikelihood(*PAIRS[name])
    assert expected < -0.5
    assert (log_prob, greedy) == (pytest.approx(expected, abs=1e-4), expected_greedy)


def test_what_the_cases_are_made_of(by_hand):
    lengths = {name: (len(by_hand.encode(c.rstrip())), len(by_hand.encode(c + t))) for name, (c, t) in PAIRS.items()}
    context, both = lengths["several tokens"]
    assert both - context > 2
    context, both = lengths["context longer than the model"]
    assert context > LONGEST > both - context
    context, both = lengths["both longer than the model"]
    assert context > LONGEST and both - context > 2 * LONGEST


def test_greedy_is_told_from_likely(loaded, by_hand):
    shown = (by_hand.eos, *by_hand.encode("the history of"))
    best = tuple(by_hand.go_on("the history of", 3))
    second = int(by_hand.logits([*shown, *best[:2]])[-1].argsort(descending=True)[1])
    windows = [Window((*shown, *best[:2]), targets) for targets in (best, (*best[:2], second), best[2:])]
    [batch] = plan(windows, None)
    scores = score_batch(loaded, batch, windows)
    assert [scores[number][1] for number in range(3)] == [True, False, True]
    assert scores[0][0] > scores[1][0]


@pytest.mark.parametrize("tokens, windows", [(1, 1), (LONGEST, 1), (LONGEST + 1, 2), (2 * LONGEST, 2)])
def test_windows_where_a_text_just_fits(loaded, tokens, windows):
    text = tuple(range(4, 4 + tokens))
    found = RequestTokens(loaded).windows((), text)
    assert len(found) == windows
    assert sum((window.targets for window in found), ()) == text
    assert found[0].inputs == (loaded.dictionary.eos(), *text[: min(tokens, LONGEST) - 1])
    assert found[-1].inputs == (loaded.dictionary.eos(), *text)[-LONGEST - 1 : -1]


@pytest.mark.parametrize("context", ["", "the history"])
def test_a_continuation_without_tokens_is_certain(loaded, ask, context):
    assert HarnessModel(loaded).loglikelihood(ask("loglikelihood", (context, ""))) == [(0.0, True)]


def test_choices_of_one_token_share_their_context():
    window = Window((2, 7, 8), (9,))
    rows = [row for batch in plan([window, Window((2, 7, 8), (5,)), Window((2, 7), (8,))], None) for row in batch]
    assert [(row.inputs, row.windows) for row in rows] == [((2, 7, 8), (0, 1)), ((2, 7), (2,))]


def test_batches_begin_with_the_longest_rows_and_keep_to_their_size():
    assert make_batches([3, 9, 5, 9], 2) == [[1, 3], [2, 0]]
    assert make_batches([POSITIONS // 2, 10, POSITIONS], None) == [[2], [0, 1]]
    assert make_batches([2 * POSITIONS, 1], None) == [[0], [1]]
    assert make_batches([], None) == []


def test_batches_change_nothing(loaded, ask):
    requests = ask("loglikelihood", *PAIRS.values())
    alone = HarnessModel(loaded, batch_size=1).loglikelihood(requests)
    for size in (3, None):
        together = HarnessModel(loaded, batch_size=size).loglikelihood(requests)
        assert [greedy for _, greedy in together] == [greedy for _, greedy in alone]
        assert [value for value, _ in together] == pytest.approx([value for value, _ in alone], abs=1e-4)


def test_rolling_covers_each_token_of_a_text_once(loaded, by_hand, ask):
    texts = ["the system", LONG, LONG * 4]
    found = HarnessModel(loaded).loglikelihood_rolling(ask("loglikelihood_rolling", *((text,) for text in texts)))
    assert found == pytest.approx([by_hand.loglikelihood("", text)[0] for text in texts], abs=1e-4)


@pytest.mark.parametrize("add_bos", [False, True])
def test_a_document_is_scored_as_the_task_shows_it(checkpoint, ask, add_bos):
    changes = {"sample_break_mode": "eos", "add_bos_token": add_bos}
    loaded = load_checkpoint(checkpoint, device="cpu", task_changes=changes)
    loaded.task.load_dataset("valid")
    sample = loaded.task.dataset("valid")[0]
    tokens = RequestTokens(loaded)
    source, target = sample["source"][:LONGEST], sample["target"][:LONGEST]
    skipped = int(add_bos)  # the task has the model predict <s> from <s>, which is no text
    while True:  # to the end of a word, so that the text encodes as these tokens
        text = tokens.decode(target[skipped:].tolist())
        if tokens.encode(text) == tuple(target[skipped:].tolist()):
            break
        source, target = source[:-1], target[:-1]
    assert len(target) > 5
    with torch.no_grad():
        log_probs = loaded.model(source.unsqueeze(0))[0][0].double().log_softmax(-1)
    expected = log_probs.gather(1, target.unsqueeze(1))[skipped:].sum().item()
    assert HarnessModel(loaded).loglikelihood_rolling(ask("x", (text,))) == [pytest.approx(expected, abs=1e-4)]


def test_begin_of_a_sentence_stays_when_a_context_is_cut(checkpoint, ask):
    loaded = load_checkpoint(checkpoint, device="cpu", task_changes={"add_bos_token": True})
    reference = ByHand(loaded, begin=[loaded.dictionary.bos()])
    for name in ("several tokens", "context longer than the model", "both longer than the model"):
        [(found, _)] = HarnessModel(loaded).loglikelihood(ask("loglikelihood", PAIRS[name]))
        assert found == pytest.approx(reference.loglikelihood(*PAIRS[name])[0], abs=1e-4), name


def test_space_between_context_and_continuation_belongs_to_the_continuation(loaded):
    tokens = RequestTokens(loaded)
    assert tokens.pair("the history ", "of") == tokens.pair("the history", " of")
    context, continuation = tokens.pair("the history", " of the system")
    assert context == tokens.encode("the history")
    assert context + continuation == tokens.encode("the history of the system")


@pytest.mark.parametrize("rule", [{"capacity_factor": 1.0}, {"eval_capacity_fraction": 0.5}, {"sample_in_eval": True}])
def test_models_whose_rows_meet_answer_one_by_one(loaded, caplog, monkeypatch, rule):
    config = dict(capacity_factor=0.0, eval_capacity_fraction=-1.0, sample_in_eval=False)
    layer = SimpleNamespace(config=SimpleNamespace(**{**config, **rule}))
    assert not rows_meet(loaded)
    monkeypatch.setattr(type(loaded), "moe_layers", lambda self: [(1, layer)])
    with caplog.at_level(logging.WARNING):
        assert HarnessModel(loaded, batch_size=8).batch_size == 1
    assert "--batch-size 1" in caplog.text


def test_nan_is_an_error(checkpoint, ask):
    loaded = load_checkpoint(checkpoint, device="cpu")
    torch.nn.init.constant_(loaded.model.decoder.layer_norm.weight, float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        HarnessModel(loaded).loglikelihood(ask("loglikelihood", ("a", " b")))
