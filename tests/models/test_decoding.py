"""Decoding with the key/value cache gives what a forward pass over the whole text gives."""

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator

PAD = 1
MODELS = {
    "dense, sinusoidal": dict(),
    "dense, learned": dict(decoder_learned_pos=True),
    "rotary": dict(rotary_embed=True, no_token_positional_embeddings=True),
    "grouped heads": dict(rotary_embed=True, no_token_positional_embeddings=True, n_kv_heads=2),
    "SubLN": dict(subln=True, decoder_learned_pos=True, layernorm_embedding=True),
    "DeepNorm": dict(deepnorm=True, decoder_normalize_before=False),
    "MH-MoE": dict(moe_freq=2, moe_expert_count=4, moe_top_k=2, mhmoe_heads_number=2, rotary_embed=True),
    "X-MoE": dict(moe_freq=1, moe_expert_count=4, use_xmoe=True),
}


@pytest.fixture(params=MODELS)
def decoder(request, build):
    """Each of the models, ready to decode."""
    return build(**MODELS[request.param]).decoder.eval()


def decode(decoder, tokens, *chunks):
    """Logits of all tokens, given to the decoder as prefixes of these lengths."""
    state = {}
    with torch.no_grad():
        return torch.cat([decoder(tokens[:, :end], incremental_state=state)[0] for end in chunks], dim=1)


def full(decoder, tokens):
    with torch.no_grad():
        return decoder(tokens)[0]


def assert_same(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_token_by_token_equals_full(decoder, tokens):
    text = tokens(3, 9)
    assert_same(decode(decoder, text, *range(1, 10)), full(decoder, text))


def test_prefill_of_many_tokens_equals_full(decoder, tokens):
    text = tokens(3, 9)
    assert_same(decode(decoder, text, 5, 6, 9), full(decoder, text))


def test_left_padded_prompts_equal_their_unpadded_selves(decoder, tokens):
    text = tokens(2, 9)
    padded = text.clone()
    padded[1, :3] = PAD
    got = decode(decoder, padded, 6, 7, 8, 9)
    assert_same(got[:1], full(decoder, text[:1]))
    assert_same(got[1:, 3:], full(decoder, text[1:, 3:]))
    assert got.isfinite().all()


def test_right_padded_prompt_in_a_batch_is_not_disturbed(decoder, tokens):
    text = tokens(2, 9)
    text[1, 6:] = PAD
    assert_same(decode(decoder, text, 7, 9)[1, :6], full(decoder, text[1:, :6])[0])


def test_cache_grows_over_long_texts(build, tokens):
    decoder = build(**MODELS["grouped heads"], tokens_per_sample=200).decoder.eval()
    text = tokens(1, 150)
    assert_same(decode(decoder, text, *range(1, 151)), full(decoder, text))


def test_beam_reorder_moves_the_cache(decoder, tokens):
    text = tokens(3, 6)
    order = torch.tensor([2, 0, 0, 1])
    state = {}
    with torch.no_grad():
        decoder(text[:, :4], incremental_state=state)
        decoder.reorder_incremental_state_scripting(state, order)
        follow = torch.cat([text[order, :4], tokens(4, 2, seed=7)], dim=1)
        got = decoder(follow, incremental_state=state)[0]
    assert_same(got, full(decoder, follow)[:, 4:])


def test_nothing_new_to_decode_is_an_error(build, tokens):
    decoder, state = build().decoder.eval(), {}
    decoder(tokens(1, 4), incremental_state=state)
    with pytest.raises(ValueError, match="4 are decoded already"):
        decoder(tokens(1, 4), incremental_state=state)


class WholeText(torch.nn.Module):
    """The same model without incremental decoding, as fairseq's generator would use it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(tokens)

    def get_normalized_probs(self, *args, **kwargs):
        return self.model.get_normalized_probs(*args, **kwargs)

    def max_decoder_positions(self):
        return self.model.max_decoder_positions()


@pytest.mark.parametrize("name", ["rotary", "dense, learned", "MH-MoE"])
@pytest.mark.parametrize("beam", [1, 4])
def test_fairseq_generator_with_cache_equals_without(build, tokens, dictionary, name, beam):
    model = build(**MODELS[name]).eval()
    prefix = tokens(3, 4)
    prefix[1, 2:] = PAD  # a shorter prompt: generation takes over earlier
    sample = {"net_input": {"src_tokens": prefix, "src_lengths": torch.tensor([4, 2, 4])}}

    def generate(one):
        generator = SequenceGenerator([one], dictionary, beam_size=beam, max_len_a=0, max_len_b=12)
        return generator.generate([one], sample, prefix_tokens=prefix)

    for got, expected in zip(generate(model), generate(WholeText(model))):
        assert [h["tokens"].tolist() for h in got] == [h["tokens"].tolist() for h in expected]
        for mine, whole in zip(got, expected):
            torch.testing.assert_close(mine["positional_scores"], whole["positional_scores"], rtol=1e-4, atol=1e-4)
            assert mine["tokens"].numel() <= 13
