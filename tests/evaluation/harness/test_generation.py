"""Texts that a model goes on with: those of a loop without a cache, whatever else is in the batch."""

import pytest
import torch

from fairseq_mhmoe.evaluation.harness import HarnessModel
from fairseq_mhmoe.evaluation.harness_generation import Settings, next_token, random_numbers
from fairseq_mhmoe.evaluation.harness_tokens import RequestTokens

from .conftest import LONGEST

CONTEXTS = ["the history of", "", "the city of the government " * 8]


def text_of(loaded, prompt, new):
    tokens = RequestTokens(loaded)
    return tokens.generated(tokens.prompt(prompt, len(new)), new)


@pytest.mark.parametrize("new_tokens", [1, 9, LONGEST - 1, 2 * LONGEST])
def test_greedy_is_the_loop_without_a_cache(loaded, by_hand, ask, new_tokens):
    requests = ask("generate_until", *((context, {"max_gen_toks": new_tokens}) for context in CONTEXTS))
    found = HarnessModel(loaded).generate_until(requests)
    expected = [by_hand.go_on(context, new_tokens) for context in CONTEXTS]
    assert found == [text_of(loaded, context, new) for context, new in zip(CONTEXTS, expected, strict=True)]
    assert new_tokens == 1 or len(set(sum(expected, []))) > 5, "a model that says the same whatever it is told"


def test_a_text_ends_before_the_first_of_its_stops(loaded, ask):
    [whole] = HarnessModel(loaded).generate_until(ask("generate_until", (CONTEXTS[0], {"max_gen_toks": 12})))
    stops = [whole[5:8], whole[3:5]]
    first = min(whole.find(stop) for stop in stops)
    [cut] = HarnessModel(loaded).generate_until(
        ask("generate_until", (CONTEXTS[0], {"max_gen_toks": 12, "until": stops}))
    )
    assert cut == whole[:first]
    [cut] = HarnessModel(loaded).generate_until(
        ask("generate_until", (CONTEXTS[0], {"max_gen_toks": 12, "until": stops[0]}))
    )
    assert cut == whole[: whole.find(stops[0])]


def test_a_text_ends_with_its_document(loaded, ask, monkeypatch):
    eos, output_layer = loaded.dictionary.eos(), loaded.model.decoder.output_layer
    rows = []

    def ends_after_three(features):
        logits = output_layer(features)
        rows.append(len(features))
        if len(rows) > 3:
            logits[:, eos] = 1e9
        return logits

    [expected] = HarnessModel(loaded).generate_until(ask("generate_until", (CONTEXTS[0], {"max_gen_toks": 3})))
    monkeypatch.setattr(loaded.model.decoder, "output_layer", ends_after_three)
    [found] = HarnessModel(loaded).generate_until(ask("generate_until", (CONTEXTS[0], {"max_gen_toks": 9})))
    assert (found, len(rows)) == (expected, 4)


def test_sampled_texts_depend_on_request_seed_and_repeat_alone(loaded, ask):
    drawn = {"do_sample": True, "temperature": 1.5, "max_gen_toks": 8}
    requests = ask("generate_until", *((context, drawn) for context in [*CONTEXTS, CONTEXTS[0]]))
    together = HarnessModel(loaded).generate_until(requests)
    assert together == HarnessModel(loaded, batch_size=1).generate_until(requests)
    assert together[0] != together[-1], "the second time, the same request gets another text"
    assert together != HarnessModel(loaded, seed=2).generate_until(requests)


def test_the_best_of_one_is_greedy(loaded, ask):
    greedy, drawn = ({"max_gen_toks": 9}, {"max_gen_toks": 9, "do_sample": True, "temperature": 3.0, "top_k": 1})
    model = HarnessModel(loaded)
    assert model.generate_until(ask("generate_until", (CONTEXTS[0], drawn))) == model.generate_until(
        ask("generate_until", (CONTEXTS[0], greedy))
    )


@pytest.mark.parametrize(
    "settings, possible",
    [
        (Settings(temperature=1.0), {0, 1, 2, 3}),
        (Settings(temperature=1.0, top_k=2), {1, 2}),
        (Settings(temperature=1.0, top_p=0.7), {1, 2}),
        (Settings(temperature=1.0, top_p=0.4), {2}),
        (Settings(temperature=0.0), {2}),
    ],
)
def test_what_can_be_drawn(settings, possible):
    logits = torch.tensor([0.1, 0.3, 0.5, 0.1]).log()
    generator = random_numbers("a test")
    assert {next_token(logits, settings, generator) for _ in range(200)} == possible


def test_drawn_shares_are_the_probabilities():
    generator = random_numbers("another test")
    logits = torch.tensor([0.2, 0.8]).log()
    drawn = [next_token(logits, Settings(temperature=1.0), generator) for _ in range(2000)]
    assert sum(drawn) / 2000 == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, Settings()),
        ({"until": ["\n", ""], "max_new_tokens": 5}, Settings(("\n",), 5)),
        ({"until": "x", "do_sample": False, "temperature": 0.7}, Settings(("x",))),
        ({"do_sample": True}, Settings(temperature=1.0)),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 3}, Settings(temperature=0.5, top_p=0.9, top_k=3)),
    ],
)
def test_settings_of_a_task(given, expected):
    assert Settings.of_request(given) == expected


@pytest.mark.parametrize(
    "given", [{"num_beams": 4}, {"max_gen_toks": 0}, {"temperature": -1.0}, {"top_p": 1.5, "do_sample": True}]
)
def test_settings_that_we_dont_know_are_refused(given):
    with pytest.raises(ValueError, match="generation_kwargs"):
        Settings.of_request(given)
