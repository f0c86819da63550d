"""Every option changes something, raises or warns."""

import dataclasses
import logging

import pytest
import torch

from fairseq_mhmoe.models.decoder import DecoderBlock
from fairseq_mhmoe.models.options import MHMoELanguageModelConfig, lm_shape, moe_config, with_defaults
from fairseq_mhmoe.models.run_options import RunOptions
from fairseq_mhmoe.moe import activations
from fairseq_mhmoe.moe.cost import model_cost
from fairseq_mhmoe.moe.parallel import all_experts_here

EXPERTS = dict(moe_freq=2, moe_expert_count=4)
TWO = EXPERTS | dict(moe_top_k=2)
POST_NORM = dict(decoder_normalize_before=False)

# option, value, other options, what differs from the model without it
EFFECTS = [
    ("decoder_embed_dim", 16, {}, "parameters"),
    ("decoder_ffn_embed_dim", 40, {}, "parameters"),
    ("decoder_layers", 3, {}, "parameters"),
    ("decoder_attention_heads", 2, {}, "output"),
    ("n_kv_heads", 2, {}, "parameters"),
    ("dropout", 0.5, {}, "training output"),
    ("attention_dropout", 0.5, {}, "training output"),
    ("activation_dropout", 0.5, {}, "training output"),
    ("activation_dropout", 0.5, dict(moe_freq=1, moe_expert_count=4), "training output"),
    ("activation_fn", "relu", {}, "output"),
    ("activation_fn", "silu", {}, "parameters"),
    ("activation_fn", "relu", dict(moe_freq=1, moe_expert_count=4), "output"),
    ("rms_norm", True, {}, "parameters"),
    ("no_bias", True, {}, "parameters"),
    ("rotary_embed", True, {}, "output"),
    ("no_token_positional_embeddings", True, {}, "output"),
    ("decoder_learned_pos", True, {}, "parameters"),
    ("no_scale_embedding", True, {}, "output"),
    ("layernorm_embedding", True, {}, "parameters"),
    ("share_decoder_input_output_embed", True, {}, "parameters"),
    ("decoder_normalize_before", True, POST_NORM, "parameters"),
    ("subln", True, {}, "parameters"),
    ("deepnorm", True, POST_NORM, "output"),
    ("checkpoint_activations", True, {}, "recomputation"),
    ("flash_attention", True, {}, "warning"),
    ("scale_length", 2048, {}, "warning"),
    # what it does to the optimizer is tested in tests/integration
    ("no_weight_decay_on", "norm,weight", {}, "error"),
    ("input_bits", 8, {}, "output"),
    ("input_bits", 8, dict(moe_freq=1, moe_expert_count=4), "output"),
    ("weight_bits", 1, {}, "output"),
    ("weight_bits", 1, dict(moe_freq=1, moe_expert_count=4), "output"),
    ("input_quant_method", "absmax_per_token", {}, "warning"),
    ("weight_quant_method", "absmean", {}, "warning"),
    ("input_quant_method", "absmean", dict(input_bits=8), "error"),
    ("weight_quant_method", "absmax", dict(weight_bits=1), "error"),
    ("moe_expert_count", 8, EXPERTS, "parameters"),
    ("moe_freq", 1, EXPERTS, "parameters"),
    ("moe_top_k", 2, EXPERTS, "output"),
    ("moe_top1_expert", True, TWO, "error"),
    ("moe_ffn_dim", 16, EXPERTS, "parameters"),
    ("mhmoe_heads_number", 2, EXPERTS, "parameters"),
    ("mhmoe_heads_number", 4, EXPERTS | dict(mhmoe_heads_number=2), "parameters"),
    ("mhmoe_head_layers", 2, EXPERTS, "parameters"),
    ("mhmoe_merge_layers", 0, EXPERTS | dict(mhmoe_heads_number=2), "parameters"),
    ("mhmoe_residual", True, EXPERTS, "output"),
    ("use_xmoe", True, EXPERTS, "parameters"),
    ("moe_router", "torchscale-cosine", EXPERTS, "parameters"),
    ("moe_router_args", '{"scale": 2}', EXPERTS, "error"),
    ("moe_router_dim", 8, EXPERTS | dict(use_xmoe=True), "parameters"),
    ("moe_router_temperature", 0.07, EXPERTS | dict(use_xmoe=True), "initial values"),
    ("moe_gating_use_fp32", True, EXPERTS, "warning"),
    ("moe_second_expert_policy", "random", TWO, "training output"),
    ("moe_second_expert_policy", "sampling", TWO, "training output"),
    ("moe_normalize_gate_prob_before_dropping", True, TWO, "output"),
    ("moe_capacity_factor", 0.5, EXPERTS, "output"),
    ("moe_eval_capacity_token_fraction", 0.1, EXPERTS, "output"),
    ("moe_batch_prioritized_routing", True, EXPERTS | dict(moe_capacity_factor=0.5), "output"),
    ("moe_shared_expert_dim", 16, EXPERTS, "parameters"),
    ("moe_expert_backend", "grouped_mm", EXPERTS | dict(moe_ffn_dim=13), "error in use"),
    ("moe_recompute", True, EXPERTS, "less is kept"),
    ("moe_fused_activation", True, EXPERTS | dict(activation_fn="silu"), "compilation"),
    ("moe_fused_activation", True, EXPERTS, "warning"),
    ("moe_expert_parallel_size", 3, EXPERTS, "error"),
    # what these do between processes is tested in tests/distributed
    ("moe_exchange", "capacity", EXPERTS | dict(moe_capacity_factor=2.0), "warning"),
    ("moe_rank_capacity_factor", 0.5, EXPERTS, "warning"),
    ("moe_balance_scope", "global", EXPERTS, "warning"),
    ("moe_timeout", 0, {}, "error"),
    ("moe_compat", "published", TWO, "output"),
    ("moe_compat", "torchscale", TWO, "output"),
    ("add_bos_token", True, {}, "longest sequence"),
    ("tokens_per_sample", 48, {}, "longest sequence"),
    ("max_target_positions", 48, {}, "longest sequence"),
]


def logits(model, batch, training):
    torch.manual_seed(3)
    with torch.no_grad():
        return model.train(training)(batch)[0]


def shapes(model):
    return {name: p.shape for name, p in model.named_parameters()}


def count_block_runs(model, batch, monkeypatch):
    runs, forward = [], DecoderBlock.forward
    monkeypatch.setattr(DecoderBlock, "forward", lambda self, *a: runs.append(self) or forward(self, *a))
    model(batch)[0].sum().backward()
    monkeypatch.undo()
    return len(runs)


def numbers_kept_for_backward(model, batch):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        model(batch)
    return sum(kept)


@pytest.mark.parametrize("name, value, others, effect", EFFECTS)
def test_option_has_its_effect(build, tokens, caplog, monkeypatch, name, value, others, effect):
    caplog.set_level(logging.WARNING)
    batch, changes = tokens(2, 12), {**others, name: value}
    before = build(**others)
    if effect == "error":
        with pytest.raises(ValueError, match="--" + name.replace("_", "-")):
            build(**changes)
        return
    after = build(**changes)
    if effect == "parameters":
        assert shapes(before) != shapes(after)
        after(batch)
    elif effect == "initial values":
        assert any(not torch.equal(p, after.state_dict()[n]) for n, p in before.state_dict().items())
    elif "output" in effect:
        after.load_state_dict(before.state_dict())
        training = effect.startswith("training")
        assert not torch.allclose(logits(before, batch, training), logits(after, batch, training), atol=1e-6)
    elif effect == "recomputation":
        assert count_block_runs(after, batch, monkeypatch) == 2 * count_block_runs(before, batch, monkeypatch)
    elif effect == "less is kept":
        assert numbers_kept_for_backward(after, batch) < numbers_kept_for_backward(before, batch)
    elif effect == "compilation":
        asked = []
        monkeypatch.setattr(activations, "compiled", lambda function: asked.append(function) or function)
        after(batch)[0].sum().backward()
        assert set(asked) == {activations.swiglu, activations.swiglu_grad}
    elif effect == "warning":
        assert any("--" + name.replace("_", "-") + " has no effect" in r.message for r in caplog.records)
    elif effect == "error in use":
        before(batch)
        with pytest.raises(ValueError, match=value):
            after(batch)
    else:
        assert effect == "longest sequence" and before.max_positions() != after.max_positions()


def test_every_option_is_in_the_table_of_effects():
    fields = {f.name for f in dataclasses.fields(MHMoELanguageModelConfig) if not f.name.startswith("_")}
    of_the_run = {f.name for f in dataclasses.fields(RunOptions)}  # test_run_options.py
    assert fields - of_the_run == {name for name, *_ in EFFECTS} - of_the_run


def test_expert_parallel_size_that_does_not_fit_names_those_that_would(build):
    with pytest.raises(ValueError, match="4 experts on 1 processes.*expected one of 1, or leave it out"):
        build(**EXPERTS, moe_expert_parallel_size=2)


def test_a_model_with_all_experts_here_ignores_the_layout_of_its_training_run(build, caplog):
    with all_experts_here():
        build(**EXPERTS, moe_expert_parallel_size=2, moe_balance_scope="global")
    assert "no effect" not in caplog.text


def test_xmoe_flag_is_the_xmoe_router(options):
    assert moe_config(options(**EXPERTS, use_xmoe=True)) == moe_config(options(**EXPERTS, moe_router="xmoe"))


def test_published_mode_is_what_the_published_language_model_did(options):
    config = moe_config(
        options(
            **TWO,
            use_xmoe=True,
            moe_compat="published",
            moe_second_expert_policy="random",
            moe_normalize_gate_prob_before_dropping=True,
        )
    )
    assert (config.capacity_factor, config.padding, config.normalize_gates) == (1.0, "routed", "none")
    assert (config.second_policy, config.router, config.residual) == ("all", "torchscale-cosine", False)


def test_torchscale_mode_normalises_after_dropping_unless_before(options):
    cfg = options(**TWO, moe_compat="torchscale")
    assert moe_config(cfg).normalize_gates == "after"
    cfg.moe_normalize_gate_prob_before_dropping = True
    assert moe_config(cfg).normalize_gates == "before"


def test_dense_model_has_no_moe_config(options):
    assert moe_config(options()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(decoder_learned_pos=True, max_target_positions=20, layernorm_embedding=True, subln=True),
        dict(activation_fn="silu", rms_norm=True, no_bias=True, n_kv_heads=2, share_decoder_input_output_embed=True),
        TWO | dict(mhmoe_heads_number=2, moe_shared_expert_dim=8, use_xmoe=True, activation_fn="silu", subln=True),
        EXPERTS | POST_NORM,
    ],
)
def test_shape_for_the_cost_model_counts_the_parameters(build, options, changes):
    counted = model_cost(lm_shape(options(**changes), vocab_size=101, tokens_per_sample=32)).params_total
    assert counted == sum(p.numel() for p in build(**changes).parameters())


def test_options_of_older_checkpoints_are_completed():
    from omegaconf import OmegaConf

    old = OmegaConf.create(dict(decoder_embed_dim=64, tokens_per_sample=8))
    new = with_defaults(old)
    assert new.decoder_embed_dim == 64 and new.moe_compat == "none" and new.tokens_per_sample == 8
