"""Every option of the multimodal model changes something, raises or warns."""

import dataclasses
import logging

import pytest
import torch

from fairseq_mhmoe.models.moe_options import MoEOptions
from fairseq_mhmoe.models.multimodal_block import MultimodalBlock
from fairseq_mhmoe.models.multimodal_options import MHMoEMultimodalConfig, moe_config
from fairseq_mhmoe.models.run_options import RunOptions

EXPERTS = dict(moe_freq=2, moe_expert_count=4)
TWO = EXPERTS | dict(moe_top_k=2)
ALL = dict(moe_freq=1, moe_expert_count=4)

# option, value, other options, what differs from the model without it
EFFECTS = [
    ("encoder_embed_dim", 16, {}, "parameters"),
    ("encoder_ffn_embed_dim", 40, {}, "parameters"),
    ("encoder_layers", 3, {}, "parameters"),
    ("encoder_attention_heads", 2, {}, "output"),
    ("activation_fn", "relu", {}, "output"),
    ("activation_fn", "relu", ALL, "output"),
    ("dropout", 0.5, {}, "training output"),
    ("dropout", 0.5, ALL, "training output"),
    ("attention_dropout", 0.5, {}, "training output"),
    ("activation_dropout", 0.5, {}, "training output"),
    ("activation_dropout", 0.5, ALL, "training output"),
    ("drop_path_rate", 0.9, {}, "training output"),
    ("drop_path_rate", 1.0, {}, "error"),
    ("no_subln", True, {}, "parameters"),
    ("no_subln", True, ALL, "parameters"),
    ("checkpoint_activations", True, {}, "recomputation"),
    # what it does to the optimizer is tested in tests/integration
    ("no_weight_decay_on", "norm,weight", {}, "error"),
    ("moe_modality", "separate", EXPERTS, "parameters"),
    ("moe_modality", "separate", {}, "warning"),
    ("moe_expert_count", 8, EXPERTS, "parameters"),
    ("moe_freq", 1, EXPERTS, "parameters"),
    ("moe_freq", 3, EXPERTS, "error"),
    ("moe_top_k", 2, EXPERTS, "output"),
    ("moe_top1_expert", True, TWO, "error"),
    ("moe_ffn_dim", 16, EXPERTS, "parameters"),
    ("mhmoe_heads_number", 2, EXPERTS, "parameters"),
    ("mhmoe_heads_number", 5, EXPERTS, "error"),
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
    ("moe_normalize_gate_prob_before_dropping", True, TWO, "output"),
    ("moe_capacity_factor", 0.5, EXPERTS, "output"),
    ("moe_eval_capacity_token_fraction", 0.1, EXPERTS, "output"),
    ("moe_batch_prioritized_routing", True, EXPERTS | dict(moe_capacity_factor=0.5), "output"),
    ("moe_shared_expert_dim", 16, EXPERTS, "parameters"),
    ("moe_expert_backend", "grouped_mm", EXPERTS | dict(moe_ffn_dim=13), "error in use"),
    ("moe_recompute", True, EXPERTS, "less is kept"),
    # SwiGLU is not among the activations here
    ("moe_fused_activation", True, EXPERTS, "warning"),
    ("moe_expert_parallel_size", 3, EXPERTS, "error"),
    # what these do between processes is tested in tests/distributed
    ("moe_exchange", "capacity", EXPERTS | dict(moe_capacity_factor=2.0), "warning"),
    ("moe_rank_capacity_factor", 0.5, EXPERTS, "warning"),
    ("moe_balance_scope", "global", EXPERTS, "warning"),
    ("moe_timeout", 0, {}, "error"),
    ("moe_compat", "torchscale", TWO, "output"),
]


def logits(model, stream, training):
    torch.manual_seed(3)
    with torch.no_grad():
        out = model.train(training)(pair=stream)[0]["pair"]
    return torch.cat((out["image"].flatten(), out["text"].flatten()))


def shapes(model):
    return {name: p.shape for name, p in model.named_parameters()}


def count_block_runs(model, stream, monkeypatch):
    runs, forward = [], MultimodalBlock.forward
    monkeypatch.setattr(MultimodalBlock, "forward", lambda self, *a: runs.append(self) or forward(self, *a))
    model(pair=stream)[0]["pair"]["text"].sum().backward()
    monkeypatch.undo()
    return len(runs)


def numbers_kept_for_backward(model, stream):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        model(pair=stream)
    return sum(kept)


@pytest.mark.parametrize("name, value, others, effect", EFFECTS)
def test_option_has_its_effect(multimodal, make_stream, caplog, monkeypatch, name, value, others, effect):
    caplog.set_level(logging.WARNING)
    stream, changes = make_stream(3, 12, (0, 2, 5)), {**others, name: value}
    before = multimodal(**others)
    if effect == "error":
        with pytest.raises(ValueError, match="--" + name.replace("_", "-")):
            multimodal(**changes)
        return
    after = multimodal(**changes)
    if effect == "parameters":
        assert shapes(before) != shapes(after)
        logits(after, stream, True)
    elif effect == "initial values":
        assert any(not torch.equal(p, after.state_dict()[n]) for n, p in before.state_dict().items())
    elif "output" in effect:
        after.load_state_dict(before.state_dict())
        training = effect.startswith("training")
        assert not torch.allclose(logits(before, stream, training), logits(after, stream, training), atol=1e-6)
    elif effect == "recomputation":
        assert count_block_runs(after, stream, monkeypatch) == 2 * count_block_runs(before, stream, monkeypatch)
    elif effect == "less is kept":
        assert numbers_kept_for_backward(after, stream) < numbers_kept_for_backward(before, stream)
    elif effect == "warning":
        assert any("--" + name.replace("_", "-") + " has no effect" in r.message for r in caplog.records)
    else:
        assert effect == "error in use"
        logits(before, stream, True)
        with pytest.raises(ValueError, match=value):
            logits(after, stream, True)


def test_every_option_is_in_the_table_of_effects():
    fields = {f.name for f in dataclasses.fields(MHMoEMultimodalConfig) if not f.name.startswith("_")}
    of_the_run = {f.name for f in dataclasses.fields(RunOptions)}  # test_run_options.py
    assert fields - of_the_run == {name for name, *_ in EFFECTS} - of_the_run
    assert {f.name for f in dataclasses.fields(MoEOptions)} < fields | {"_name"}


def test_activations_are_those_of_the_encoder(multimodal):
    with pytest.raises(ValueError, match="--activation-fn silu: expected one of gelu, relu"):
        multimodal(activation_fn="silu")


def test_experts_follow_the_body(multimodal_options):
    config = moe_config(multimodal_options(**EXPERTS, activation_fn="relu", activation_dropout=0.1))
    assert (config.d_model, config.ffn_dim, config.activation, config.subln) == (32, 48, "relu", True)
    assert (config.bias, config.rms_norm, config.activation_dropout) == (True, False, 0.1)
    assert moe_config(multimodal_options()) is None
    assert not moe_config(multimodal_options(**EXPERTS, no_subln=True)).subln


def test_blocks_with_experts_have_no_other_network(multimodal):
    model = multimodal(**EXPERTS, moe_modality="separate")
    dense, sparse = model.beit3.encoder.layers
    assert not dense.is_moe and sparse.is_moe and not hasattr(sparse, "ffn")
    assert [label for label, _ in model.moe_layers()] == ["1_image", "1_text"]
    assert [label for label, _ in multimodal(**EXPERTS).moe_layers()] == [1]
    names = [layer.name for _, layer in model.moe_layers()]
    assert names == ["beit3.encoder.layers.1.moe_layer.A", "beit3.encoder.layers.1.moe_layer.B"]
    assert all(f"{name}.experts.w_in" in dict(model.named_parameters()) for name in names)
