"""Impossible options are refused by name; those without effect warn once."""

import pytest

from fairseq_mhmoe.models.options import MHMoELanguageModelConfig, validate

EXPERTS = dict(moe_freq=2, moe_expert_count=4)
TWO = EXPERTS | dict(moe_top_k=2)
POST_NORM = dict(decoder_normalize_before=False)

# option, value, other options, what the message must say
IMPOSSIBLE = [
    ("decoder_embed_dim", 0, {}, "positive"),
    ("decoder_ffn_embed_dim", -8, {}, "positive"),
    ("decoder_layers", 0, {}, "positive"),
    ("decoder_attention_heads", 0, {}, "positive"),
    ("decoder_attention_heads", 5, {}, "divisor of --decoder-embed-dim 32"),
    ("n_kv_heads", 0, {}, "positive"),
    ("n_kv_heads", 3, {}, "divisor of --decoder-attention-heads 4"),
    ("n_kv_heads", 8, {}, "divisor of --decoder-attention-heads 4"),
    ("dropout", 1.0, {}, r"\[0, 1\)"),
    ("dropout", -0.1, {}, r"\[0, 1\)"),
    ("attention_dropout", 1.5, {}, r"\[0, 1\)"),
    ("activation_dropout", -1.0, {}, r"\[0, 1\)"),
    ("rotary_embed", True, dict(decoder_attention_heads=32), "pairs.*--decoder-attention-heads"),
    ("decoder_embed_dim", 2, dict(decoder_attention_heads=1), "--decoder-learned-pos"),
    ("deepnorm", True, {}, "leave out --decoder-normalize-before or --deepnorm"),
    ("deepnorm", True, dict(subln=True), "leave out --deepnorm or --subln"),
    ("subln", True, POST_NORM, "add --decoder-normalize-before"),
    ("input_bits", 4, {}, r"8 \(absmax_per_token\) or 32"),
    ("weight_bits", 8, {}, r"1 \(absmean\) or 32"),
    ("input_quant_method", "absmean", dict(input_bits=8), "expected absmax_per_token, or leave it out"),
    ("weight_quant_method", "elastic", {}, "expected absmean, or leave it out"),
    ("scale_length", -1, {}, "0"),
    ("max_target_positions", 0, {}, "positive"),
    ("moe_freq", -1, {}, "0"),
    ("moe_freq", 3, dict(moe_expert_count=4), "at most --decoder-layers 2"),
    ("moe_freq", 2, {}, "add --moe-expert-count"),
    ("moe_expert_count", 4, {}, "add --moe-freq"),
    ("moe_expert_count", -4, {}, "positive"),
    ("moe_top_k", 0, EXPERTS, "1 or more"),
    ("moe_top_k", 5, EXPERTS, "at most --moe-expert-count 4"),
    ("moe_top1_expert", True, TWO, "contradicts --moe-top-k 2.*add --moe-top-k 1"),
    ("moe_ffn_dim", 0, EXPERTS, "positive"),
    ("mhmoe_heads_number", 0, EXPERTS, "1 or more"),
    ("mhmoe_heads_number", 3, EXPERTS, "divisor of --decoder-embed-dim 32"),
    ("mhmoe_head_layers", 4, EXPERTS, "0, 1, 2 or 3"),
    ("mhmoe_merge_layers", -1, EXPERTS, "0, 1, 2 or 3"),
    ("moe_router", "torchscale-cosine", EXPERTS | dict(use_xmoe=True), "contradicts --use-xmoe"),
    ("moe_router", "mine", EXPERTS, "expected one of .*; a router of your own is there when --user-dir"),
    ("moe_router", "mine", {}, "expected one of softmax"),
    ("moe_router_args", "{}}", EXPERTS, "the softmax router takes no arguments"),
    ("moe_router_dim", 0, EXPERTS, "positive"),
    ("moe_router_temperature", 0.0, EXPERTS, "positive"),
    ("moe_capacity_factor", -1.0, EXPERTS, "0"),
    ("moe_capacity_factor", 2.0, EXPERTS | dict(moe_compat="published"), "compat 'published' implies"),
    ("moe_eval_capacity_token_fraction", 1.5, EXPERTS, "at most 1"),
    ("moe_shared_expert_dim", -1, EXPERTS, "0"),
    ("moe_expert_parallel_size", 0, EXPERTS, "positive"),
    ("moe_exchange", "capacity", EXPERTS, "capacity_factor"),
    ("moe_rank_capacity_factor", -1.0, EXPERTS, "0"),
    ("moe_timeout", -5.0, {}, "seconds"),
    ("mhmoe_residual", True, EXPERTS | dict(moe_compat="published"), "compat 'published' implies"),
    ("mhmoe_residual", True, EXPERTS | dict(moe_compat="torchscale"), "compat 'torchscale' implies"),
    ("moe_top_k", 3, EXPERTS | dict(moe_compat="torchscale"), "1 or 2"),
]


@pytest.mark.parametrize("name, value, others, message", IMPOSSIBLE)
def test_impossible_options_are_refused_by_name(options, name, value, others, message):
    with pytest.raises(ValueError, match=message) as error:
        validate(options(**{**others, name: value}))
    text = str(error.value)
    assert "--" + name.replace("_", "-") in text and str(value) in text


# option, value, other options, why it has no effect
INEFFECTIVE = [
    ("flash_attention", True, {}, "kernel"),
    ("scale_length", 2048, {}, "not scaled"),
    ("input_quant_method", "absmax_per_token", {}, "32 bits"),
    ("weight_quant_method", "absmean", {}, "32 bits"),
    ("weight_quant_method", "absmean", dict(input_bits=8), "32 bits"),
    ("decoder_learned_pos", True, dict(no_token_positional_embeddings=True), "no positions"),
    ("moe_gating_use_fp32", True, EXPERTS, "always computes in float32"),
    ("moe_router_dim", 8, EXPERTS, "softmax"),
    ("moe_router_temperature", 0.1, EXPERTS, "no temperature"),
    ("moe_router_temperature", 0.1, EXPERTS | dict(use_xmoe=True, moe_compat="published"), "no temperature"),
    ("moe_fused_activation", True, EXPERTS, "gelu is one kernel already"),
    ("decoder_ffn_embed_dim", 64, dict(moe_freq=1, moe_expert_count=4, moe_ffn_dim=16), "--moe-ffn-dim"),
    ("moe_top1_expert", True, EXPERTS, "already"),
    ("moe_second_expert_policy", "random", EXPERTS, "no second expert"),
    ("moe_normalize_gate_prob_before_dropping", True, EXPERTS, "one gate"),
    ("moe_second_expert_policy", "random", TWO | dict(moe_compat="published"), "published"),
    ("moe_normalize_gate_prob_before_dropping", True, TWO | dict(moe_compat="published"), "published"),
    ("moe_batch_prioritized_routing", True, TWO | dict(moe_compat="published"), "published"),
    ("moe_batch_prioritized_routing", True, EXPERTS, "--moe-capacity-factor"),
    ("moe_batch_prioritized_routing", True, EXPERTS | dict(moe_eval_capacity_token_fraction=1.0), "nothing waits"),
    ("moe_eval_capacity_token_fraction", 0.0, EXPERTS | dict(moe_capacity_factor=1.0), "capacity of training"),
    ("moe_eval_capacity_token_fraction", 1.0, EXPERTS, "take all tokens anyway"),
    ("moe_top_k", 2, {}, "dense"),
    ("moe_ffn_dim", 16, {}, "dense"),
    ("mhmoe_heads_number", 2, {}, "dense"),
    ("use_xmoe", True, {}, "dense"),
    ("moe_compat", "published", {}, "dense"),
]


@pytest.mark.parametrize("name, value, others, reason", INEFFECTIVE)
def test_ineffective_options_warn_once(options, caplog, name, value, others, reason):
    cfg = options(**{**others, name: value})
    for _ in range(2):
        validate(cfg)
    messages = [r.message for r in caplog.records if r.message.startswith("--" + name.replace("_", "-") + " ")]
    assert len(messages) == 1 and reason in messages[0]


@pytest.mark.parametrize("name, value, others, reason", INEFFECTIVE)
def test_ineffective_options_are_silent_at_their_default(options, caplog, name, value, others, reason):
    validate(options(**{name: getattr(MHMoELanguageModelConfig, name), **others}))
    assert not [r for r in caplog.records if r.message.startswith("--" + name.replace("_", "-") + " ")]
