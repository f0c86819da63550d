"""`generate` continues a text as fairseq's greedy search does, with and without a cache, alone and in a batch."""

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator

from fairseq_mhmoe.export.hf_model import made_up_dictionary

from .conftest import PAD, VOCABULARY
from .test_forward import MULTI, SETTINGS, V2

EOS = 2
NEW = 9
PROMPTS = ([EOS, 17, 5, 40, 9], [EOS, 33], [EOS, 8, 8, 21])
GENERATED = [
    "dense, as in v1",
    "MH-MoE",
    "MH-MoE, as in v2",
    "four sub-tokens, relu, learned positions",
    "deepnorm",
    "X-MoE",
]


def greedy_by_fairseq(ours, prompt):
    """The continuation that fairseq-generate --beam 1 finds, <eos> included."""
    dictionary = made_up_dictionary(VOCABULARY)
    search = SequenceGenerator([ours], dictionary, beam_size=1, max_len_a=0, max_len_b=len(prompt) - 1 + NEW)
    sample = {"net_input": {"src_tokens": torch.tensor([prompt]), "src_lengths": torch.tensor([len(prompt)])}}
    found = search.generate([ours], sample, prefix_tokens=torch.tensor([prompt[1:]]), bos_token=EOS)
    return found[0][0]["tokens"].tolist()[len(prompt) - 1 :]


def greedy(exported, prompt, **how):
    tokens = torch.tensor([prompt])
    found = exported.generate(
        tokens,
        max_new_tokens=NEW,
        do_sample=False,
        suppress_tokens=[PAD],
        attention_mask=torch.ones_like(tokens),
        **how,
    )
    return found[0, len(prompt) :].tolist()


def until_end(tokens):
    return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens


@pytest.mark.parametrize("name", GENERATED)
def test_greedy_text_is_fairseqs(name, pair):
    ours, exported = pair(**SETTINGS[name])
    for prompt in PROMPTS[:2]:
        expected = until_end(greedy_by_fairseq(ours, prompt)[:NEW])
        assert until_end(greedy(exported, prompt)) == expected
    assert until_end(greedy(exported, PROMPTS[1], use_cache=False)) == expected


@pytest.mark.parametrize("name", [*GENERATED, "one key head, rotary", "shared expert with SubLN"])
def test_a_cache_changes_no_logits(name, pair, padded):
    tokens, _ = padded()
    _, exported = pair(**SETTINGS[name])
    tokens = tokens[:1]
    with torch.inference_mode():
        whole = exported(tokens).logits
        cache, parts = None, []
        for part in tokens.split([5, 1, 8], dim=1):
            output = exported(part, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)


def test_with_capacity_each_step_drops_what_fairseqs_step_drops(pair, padded):
    tokens, real = padded()
    tokens, real = tokens[:2], real[:2]  # the second text is padded on the left
    ours, exported = pair(**SETTINGS["capacity, large gates first"])
    state, cache = {}, None
    with torch.inference_mode():
        for end in (8, 9, 10, 14):
            start = 0 if cache is None else cache.get_seq_length()
            expected = ours(tokens[:, :end], incremental_state=state)[0]
            output = exported(tokens[:, start:end], attention_mask=real[:, :end], past_key_values=cache, use_cache=True)
            cache, kept = output.past_key_values, real[:, start:end]
            torch.testing.assert_close(output.logits[kept], expected[kept], atol=1e-5, rtol=0)


STATIC = {"cache_implementation": "static"}


@pytest.mark.parametrize(
    "name, how",
    [
        *(("MH-MoE, as in v2", how) for how in ({}, STATIC, {"use_cache": False}, {"num_beams": 2})),
        *(("relu, learned positions", how) for how in ({}, STATIC)),
        ("MH-MoE", STATIC),
    ],
)
def test_a_batch_padded_on_the_left_gives_what_each_text_gives_alone(name, how, pair):
    _, exported = pair(**SETTINGS[name])
    longest = max(map(len, PROMPTS))
    tokens = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in PROMPTS])
    found = exported.generate(
        tokens, attention_mask=tokens.ne(PAD).long(), max_new_tokens=NEW, do_sample=False, suppress_tokens=[PAD], **how
    )
    for prompt, row in zip(PROMPTS, found[:, longest:].tolist(), strict=True):
        assert until_end(row) == until_end(greedy(exported, prompt, **how))


def test_only_the_logits_asked_for_are_made(pair, padded):
    tokens, _ = padded()
    _, exported = pair(**V2 | MULTI)
    with torch.inference_mode():
        whole = exported(tokens).logits
        torch.testing.assert_close(exported(tokens, logits_to_keep=2).logits, whole[:, -2:])
        torch.testing.assert_close(exported(tokens, logits_to_keep=torch.tensor([3, 1])).logits, whole[:, [3, 1]])
        assert isinstance(exported(tokens, return_dict=False), tuple)
        assert exported(tokens, use_cache=False).past_key_values is None
