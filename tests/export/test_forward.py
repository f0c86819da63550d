"""The exported model computes what fairseq's computes in evaluation, whatever options it was trained with."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_mhmoe.export.hf_model import to_hf_name

from .conftest import PAD, VOCABULARY, options

TOLERANCE = 1e-5
MOE = dict(moe_freq=2, moe_expert_count=6, moe_top_k=2, moe_ffn_dim=20)
MULTI = MOE | dict(mhmoe_heads_number=2)
V2 = dict(
    activation_fn="silu", rms_norm=True, rotary_embed=True, no_bias=True, no_token_positional_embeddings=True,
    no_scale_embedding=True, share_decoder_input_output_embed=True,
)  # fmt: skip
TRAINED_CAPACITY = dict(moe_capacity_factor=0.5)
SETTINGS = {
    "dense": {},
    "dense, as in v2": V2,
    "dense, as in v1": dict(subln=True, share_decoder_input_output_embed=True),
    "relu, learned positions": dict(activation_fn="relu", decoder_learned_pos=True),
    "learned and rotary positions": dict(decoder_learned_pos=True, rotary_embed=True),
    "norm after the embeddings": dict(layernorm_embedding=True, no_scale_embedding=True),
    "shared keys": dict(n_kv_heads=2),
    "one key head, rotary": V2 | dict(n_kv_heads=1),
    "post-norm": dict(decoder_normalize_before=False),
    "deepnorm": dict(decoder_normalize_before=False, deepnorm=True) | MULTI,
    "SwiGLU with biases and SubLN": dict(activation_fn="silu", subln=True) | MULTI,
    "RMSNorm and SubLN": dict(subln=True, rms_norm=True) | MULTI,
    "sparse": MOE | dict(moe_top_k=1),
    "every block": V2 | MOE | dict(moe_freq=1),
    "X-MoE": MOE | dict(use_xmoe=True, moe_normalize_gate_prob_before_dropping=True),
    "torchscale's router": MULTI | dict(moe_router="torchscale-cosine"),
    "MH-MoE": MULTI,
    "MH-MoE, as in v2": V2 | MULTI | dict(moe_shared_expert_dim=28),
    "MH-MoE, X-MoE's router": MULTI | dict(use_xmoe=True, moe_router_dim=7),
    "four sub-tokens, relu, learned positions": MULTI | dict(
        mhmoe_heads_number=4, activation_fn="relu", decoder_learned_pos=True
    ),
    "no head layer, three merge layers": MULTI | dict(mhmoe_head_layers=0, mhmoe_merge_layers=3),
    "two head layers, no merge layer": MULTI | dict(mhmoe_head_layers=2, mhmoe_merge_layers=0),
    "residual": MULTI | dict(mhmoe_residual=True),
    "shared expert with SubLN": MULTI | dict(moe_shared_expert_dim=12, subln=True),
    "capacity": MULTI | TRAINED_CAPACITY,
    "capacity, large gates first": MULTI | TRAINED_CAPACITY | dict(moe_batch_prioritized_routing=True),
    "capacity of evaluation": MULTI | dict(moe_eval_capacity_token_fraction=0.15),
    "second experts by chance, in training": MULTI | dict(moe_second_expert_policy="random"),
    "published": MULTI | dict(moe_compat="published"),
    "published, rotary": V2 | MULTI | dict(moe_compat="published"),
    "torchscale": MOE | dict(moe_compat="torchscale", use_xmoe=True),
    "torchscale, one expert": MOE | dict(moe_compat="torchscale", moe_top_k=1),
    "torchscale, normalised before": MOE | dict(
        moe_compat="torchscale", moe_normalize_gate_prob_before_dropping=True
    ),
    "BitNet": V2 | MULTI | dict(input_bits=8, weight_bits=1),
    "BitNet's inputs": MULTI | dict(input_bits=8),
    "BitNet's weights, published": MULTI | dict(weight_bits=1, moe_compat="published"),
}  # fmt: skip


def largest_difference(ours, exported, tokens, real, **inputs):
    with torch.inference_mode():
        expected = ours(tokens)[0]
        found = exported(tokens, **inputs).logits
    assert found.shape == expected.shape and expected[real].abs().max() > 0.1
    return float((found - expected)[real].abs().max())


@pytest.mark.parametrize("chosen", SETTINGS.values(), ids=SETTINGS)
def test_logits_are_fairseqs_also_beside_padding(chosen, pair, padded):
    tokens, real = padded()
    ours, exported = pair(**chosen)
    assert largest_difference(ours, exported, tokens, real, attention_mask=real.long()) <= TOLERANCE
    assert largest_difference(ours, exported, tokens, real) <= TOLERANCE  # pads are seen without a mask, too


limits = st.sampled_from([{}, {}, TRAINED_CAPACITY, dict(moe_eval_capacity_token_fraction=0.2)])
bodies = st.fixed_dictionaries({
    "activation_fn": st.sampled_from(["relu", "gelu", "silu"]),
    "n_kv_heads": st.sampled_from([None, 1, 2]),
    **{name: st.booleans() for name in (
        "rms_norm", "no_bias", "rotary_embed", "no_token_positional_embeddings", "decoder_learned_pos",
        "no_scale_embedding", "layernorm_embedding", "share_decoder_input_output_embed", "subln",
    )},
})  # fmt: skip
experts = st.fixed_dictionaries({
    "moe_freq": st.integers(1, 2),
    "moe_expert_count": st.integers(3, 6),
    "moe_top_k": st.integers(1, 3),
    "moe_ffn_dim": st.just(16),
    "mhmoe_heads_number": st.sampled_from([1, 2, 3]),
    "mhmoe_head_layers": st.sampled_from([None, 0, 1, 2, 3]),
    "mhmoe_merge_layers": st.sampled_from([None, 0, 1, 2, 3]),
    "moe_router": st.sampled_from(["softmax", "xmoe", "torchscale-cosine"]),
    "moe_shared_expert_dim": st.sampled_from([0, 12]),
    **{name: st.booleans() for name in (
        "mhmoe_residual", "moe_normalize_gate_prob_before_dropping", "moe_batch_prioritized_routing"
    )},
})  # fmt: skip


@given(bodies, experts, limits, st.integers(0, 10**6))
@settings(max_examples=20)
def test_any_options_together_give_fairseqs_logits(pair, padded, body, experts, limit, seed):
    tokens, real = padded(seed)
    ours, exported = pair(seed=seed, **body, **experts, **limit)
    assert largest_difference(ours, exported, tokens, real, attention_mask=real.long()) <= TOLERANCE


@pytest.mark.parametrize("name", ["dense, as in v2", "MH-MoE, as in v2", "X-MoE", "BitNet", "BitNet's inputs"])
def test_gradients_are_fairseqs(name, pair, padded):
    tokens, real = padded()
    ours, exported = pair(**SETTINGS[name])
    for model, logits in ((ours, ours(tokens)[0]), (exported, exported(tokens).logits)):
        model.zero_grad()
        logits[real].logsumexp(-1).mean().backward()
    found = dict(exported.named_parameters())
    for name, expected in ours.named_parameters():
        other = found.pop(to_hf_name(name))
        torch.testing.assert_close(other.grad, expected.grad, atol=1e-5, rtol=1e-4, msg=lambda said, of=name: of + said)
    assert not found


def test_fewer_symbols_in_the_output(pair, padded):
    tokens, real = padded()
    ours, exported = pair(output_size=40)
    assert largest_difference(ours, exported, tokens, real) <= TOLERANCE
    labels = torch.randint(0, 40, tokens.shape)
    assert exported(tokens, labels=labels).loss > 0


def test_the_loss_is_cross_entropy_of_the_next_tokens(pair, padded):
    tokens, real = (each[[0, 2]] for each in padded())  # with padding on the right, or none
    ours, exported = pair(**MULTI)
    loss = exported(tokens, labels=tokens.masked_fill(~real, -100)).loss
    log_probs = ours(tokens)[0].log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None]).squeeze(2)
    torch.testing.assert_close(loss, -log_probs[real[:, 1:]].mean(), atol=1e-5, rtol=1e-5)


def test_hidden_states_are_those_between_the_blocks(pair, padded):
    tokens, _ = padded()
    ours, exported = pair(**MULTI)
    states = exported(tokens[:1], output_hidden_states=True).hidden_states
    features, extra = ours(tokens[:1], features_only=True, return_all_hiddens=True)
    assert len(states) == 3
    for found, expected in zip(states, [*extra["inner_states"][:-1], features], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_embeddings_may_be_given_in_the_place_of_tokens(pair, padded):
    tokens, real = padded()
    _, exported = pair(**MULTI)
    found = exported(inputs_embeds=exported.model.embed_tokens(tokens), attention_mask=real.long()).logits
    torch.testing.assert_close(found, exported(tokens).logits)


def test_routers_stay_in_float32_in_half_precision(pair, padded):
    tokens, real = padded()
    ours, exported = pair(**MULTI)
    half = exported.to(torch.bfloat16)
    half.model.layers[1].moe_layer.router.float()  # as from_pretrained loads it, see test_export.py
    with torch.inference_mode():
        found, expected = half(tokens).logits[real].float(), ours(tokens)[0][real]
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.99


def test_a_new_model_has_finite_weights(pair):
    _, exported = pair(**SETTINGS["SwiGLU with biases and SubLN"])
    fresh = type(exported)(exported.config)
    assert all(bool(parameter.isfinite().all()) for parameter in fresh.parameters())
    assert float(fresh.model.layers[1].moe_layer.experts.norm_weight.detach().min()) == 1


def test_what_can_not_be_is_said(pair):
    _, exported = pair(**MULTI)
    tokens = torch.full((1, 5), 7)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        exported()
    with pytest.raises(ValueError, match=r"\(1, 3\); expected \(1, 5\)"):
        exported(tokens, attention_mask=torch.ones(1, 3))
    with pytest.raises(ValueError, match="33 tokens: this model takes at most 32"):
        exported(torch.full((1, 33), 7))
    with pytest.raises(ValueError, match="output_attentions"):
        exported(tokens, output_attentions=True)
    with pytest.raises(ValueError, match="unknown arguments position_ids"):
        exported(tokens, position_ids=tokens)


@pytest.mark.parametrize("changes, message", [
    ({"hidden_act": "tanh"}, "hidden_act is 'tanh'; expected one of relu, gelu, silu"),
    ({"moe_heads": 5}, "no multiple of"),
    ({"moe_freq": 1, "num_experts": 1, "num_experts_per_tok": 2}, "num_experts 1; expected num_experts_per_tok 2"),
])  # fmt: skip
def test_a_configuration_that_can_not_be_is_refused(changes, message):
    from fairseq_mhmoe.export.configuration_mhmoe import MHMoEConfig

    with pytest.raises(ValueError, match=message):
        MHMoEConfig(**changes)


def test_a_model_that_draws_at_random_in_evaluation_is_refused():
    from fairseq_mhmoe.export.hf_model import hf_config

    cfg = options(**MOE, moe_compat="torchscale", moe_second_expert_policy="random")
    with pytest.raises(ValueError, match="--moe-second-expert-policy random draws experts at random"):
        hf_config(cfg, cfg, VOCABULARY, VOCABULARY)
    assert PAD == hf_config(options(), options(), VOCABULARY, VOCABULARY)["pad_token_id"]
