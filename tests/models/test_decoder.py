import copy

import pytest
import torch
import torch.nn.functional as F

from fairseq_mhmoe.models.attention import CausalSelfAttention
from fairseq_mhmoe.models.decoder import pads_last, take_slots

PAD = 1
ROTARY = dict(rotary_embed=True, no_token_positional_embeddings=True)
EXPERTS = dict(moe_freq=2, moe_expert_count=4, moe_top_k=2, mhmoe_heads_number=2)
BODIES = {
    "sinusoidal": {},
    "learned": dict(decoder_learned_pos=True),
    "rotary": ROTARY,
    "MH-MoE": ROTARY | EXPERTS,
    "X-MoE with capacity": ROTARY | dict(moe_freq=1, moe_expert_count=4, use_xmoe=True, moe_capacity_factor=1.0),
    "routed pads": ROTARY | dict(moe_freq=2, moe_expert_count=4, moe_compat="published"),
    "counted pads": ROTARY | dict(moe_freq=2, moe_expert_count=4, moe_compat="torchscale"),
}
NO_DROPPING = [name for name in BODIES if "pads" not in name and "capacity" not in name]


def loss_and_gradients(model, batch, target=None):
    """Cross-entropy plus all balance losses, and every parameter's gradient by name."""
    model.zero_grad()
    logits, extra = model(batch)
    target = batch.roll(-1, dims=1) if target is None else target
    loss = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), ignore_index=PAD)
    loss = loss + 0.1 * sum(extra["l_aux"]) + 0.1 * sum(extra["z_loss"])
    loss.backward()
    return loss, {name: p.grad.clone() for name, p in model.named_parameters()}


def test_pads_last_moves_and_take_slots_restores():
    tokens = torch.tensor([[1, 1, 5, 6], [7, 1, 8, 1], [4, 5, 6, 7]])
    moved, slots = pads_last(tokens, PAD)
    assert moved.tolist() == [[5, 6, 1, 1], [7, 8, 1, 1], [4, 5, 6, 7]]
    assert torch.equal(take_slots(moved.unsqueeze(-1).float(), slots).squeeze(-1).long(), tokens)


@pytest.mark.parametrize("body", NO_DROPPING)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("training", [True, False])
def test_pads_change_nothing(build, tokens, body, side, training):
    model = build(**BODIES[body]).train(training)
    text = tokens(3, 8)
    padded = torch.full((3, 12), PAD)
    place = slice(4, 12) if side == "left" else slice(0, 8)
    padded[:, place] = text
    logits, extra = model(text)
    padded_logits, padded_extra = model(padded)
    torch.testing.assert_close(padded_logits[:, place], logits, rtol=1e-4, atol=1e-5)
    assert padded_logits.isfinite().all()
    for name in ("l_aux", "z_loss", "moe_stats"):
        torch.testing.assert_close(padded_extra[name], extra[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_pads_change_no_gradient(build, tokens, side):
    model = build(**BODIES["MH-MoE"])
    text = tokens(2, 8)
    target = tokens(2, 8, seed=2)
    padded, padded_target = torch.full((2, 2, 12), PAD)
    place = slice(4, 12) if side == "left" else slice(0, 8)
    padded[:, place], padded_target[:, place] = text, target
    expected = loss_and_gradients(model, text, target)[1]
    for name, gradient in loss_and_gradients(model, padded, padded_target)[1].items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("body", BODIES)
def test_a_row_of_pads_alone_gives_finite_loss_and_gradients(build, tokens, body):
    model = build(**BODIES[body])
    batch = tokens(2, 6)
    batch[1] = PAD
    loss, gradients = loss_and_gradients(model, batch)
    assert loss.isfinite() and all(g.isfinite().all() for g in gradients.values())


def test_future_tokens_change_nothing(build, tokens):
    model = build(**BODIES["MH-MoE"]).eval()
    text = tokens(1, 8)
    other = text.clone()
    other[0, 5:] = tokens(1, 3, seed=9)
    torch.testing.assert_close(model(text)[0][:, :5], model(other)[0][:, :5])


@pytest.mark.parametrize("body", BODIES)
def test_checkpointing_changes_no_gradient(build, tokens, body):
    # dropout: the recomputation must draw the same random numbers
    changes = BODIES[body] | dict(dropout=0.2, attention_dropout=0.2, activation_dropout=0.2)
    batch, results = tokens(2, 10), []
    for recompute in (False, True):
        model = build(**changes, checkpoint_activations=recompute)
        torch.manual_seed(5)
        results.append(loss_and_gradients(model, batch))
    (loss, gradients), (loss_again, gradients_again) = results
    assert torch.equal(loss, loss_again)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, gradients_again[name]), name
    assert all(gradients[name].abs().sum() > 0 for name in gradients if "router" in name)


def test_checkpointing_of_random_second_experts_changes_no_gradient(build, tokens):
    changes = BODIES["MH-MoE"] | dict(moe_second_expert_policy="random")
    results = []
    for recompute in (False, True):
        model = build(**changes, checkpoint_activations=recompute)
        torch.manual_seed(5)
        results.append(loss_and_gradients(model, tokens(2, 10))[1])
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_balance_loss_reaches_the_router_through_checkpointing(build, tokens):
    model = build(**BODIES["MH-MoE"], checkpoint_activations=True)
    sum(model(tokens(2, 10))[1]["l_aux"]).backward()
    assert model.decoder.layers[1].moe_layer.router.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("freq, expected", [(1, [0, 1, 2, 3, 4]), (2, [1, 3]), (3, [2]), (5, [4])])
def test_every_freqth_block_has_experts(build, tokens, freq, expected):
    model = build(decoder_layers=5, moe_freq=freq, moe_expert_count=2)
    extra = model(tokens(1, 4))[1]
    assert extra["moe_layers"] == expected
    assert [i for i, block in enumerate(model.decoder.layers) if hasattr(block, "moe_layer")] == expected
    assert all(len(extra[name]) == len(expected) for name in ("l_aux", "z_loss", "moe_stats"))


def test_dense_model_reports_nothing(build, tokens):
    extra = build()(tokens(1, 4))[1]
    assert extra["attn"] == [None] and extra["inner_states"] is None
    assert not any(extra[name] for name in ("l_aux", "z_loss", "moe_stats", "moe_layers"))


def test_all_hidden_states_on_request_in_the_order_of_the_tokens(build, tokens):
    decoder = build(**ROTARY).decoder.eval()
    text = tokens(1, 6)
    padded = torch.cat([torch.full((1, 2), PAD), text], dim=1)
    states = decoder(text, return_all_hiddens=True)[1]["inner_states"]
    padded_states = decoder(padded, return_all_hiddens=True)[1]["inner_states"]
    assert len(states) == 3
    for state, padded_state in zip(states, padded_states):
        torch.testing.assert_close(padded_state[:, 2:], state)


def test_features_only_leaves_out_the_projection(build, tokens):
    decoder = build().decoder.eval()
    features = decoder(tokens(1, 6), features_only=True)[0]
    assert features.shape == (1, 6, 32)
    torch.testing.assert_close(decoder.output_layer(features), decoder(tokens(1, 6))[0])


def test_kernel_gets_no_mask_unless_pads_are_felt(build, tokens, monkeypatch):
    masks = []
    forward = CausalSelfAttention.forward

    def spy(self, x, rotary, mask, *more):
        masks.append(mask)
        return forward(self, x, rotary, mask, *more)

    monkeypatch.setattr(CausalSelfAttention, "forward", spy)
    batch = tokens(2, 5)
    batch[0, 0] = PAD
    build(**BODIES["MH-MoE"])(batch)
    assert masks == [None, None]
    build(**BODIES["routed pads"])(batch)
    assert masks[2] is masks[3] is not None


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_longest_sequence_runs_and_one_more_is_an_error(build, tokens, positions):
    model = build(**BODIES[positions])
    assert model.max_positions() == 32
    model(tokens(1, 32))
    with pytest.raises(ValueError, match="33 tokens: this model takes at most 32.*--max-target-positions"):
        model(tokens(1, 33))


def test_beginning_of_sentence_symbol_has_its_own_position(build):
    assert build(add_bos_token=True).max_positions() == 33
    assert build(add_bos_token=True, max_target_positions=16).max_positions() == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("body", ["learned", "sinusoidal", "MH-MoE", "X-MoE with capacity"])
def test_runs_in_each_precision(build, tokens, dtype, body):
    model = build(**BODIES[body], activation_fn="silu").to(dtype)
    reference = build(**BODIES[body], activation_fn="silu")
    batch = tokens(2, 8)
    loss, gradients = loss_and_gradients(model, batch)
    assert model(batch)[0].dtype == dtype
    assert loss.item() == pytest.approx(loss_and_gradients(reference, batch)[0].item(), rel=0.02)
    assert all(g.isfinite().all() for g in gradients.values())
    routers = [p for name, p in model.named_parameters() if "router" in name]
    assert all(p.dtype == torch.float32 for p in routers)


def test_parameters_are_named_as_in_torchscale(build):
    model = build(**EXPERTS, activation_fn="silu", no_bias=True, rms_norm=True, subln=True)
    names = {name for name, _ in model.named_parameters()}
    attention = [f"self_attn.{p}_proj.weight" for p in "qkv"] + ["self_attn.out_proj.weight"]
    attention += ["self_attn.inner_attn_ln.weight", "self_attn_layer_norm.weight", "final_layer_norm.weight"]
    dense = ["ffn.fc1.weight", "ffn.fc2.weight", "ffn.fc3.weight", "ffn.ffn_layernorm.weight"]
    expected = {f"decoder.layers.0.{name}" for name in attention + dense}
    expected |= {f"decoder.layers.1.{name}" for name in attention}
    expected |= {"decoder.embed_tokens.weight", "decoder.layer_norm.weight", "decoder.output_projection.weight"}
    assert {name for name in names if ".moe_layer." not in name} == expected
    assert all(name.startswith("decoder.layers.1.") for name in names - expected)


def test_tied_output_is_the_embedding(build, tokens):
    decoder = build(share_decoder_input_output_embed=True).decoder
    features = decoder(tokens(1, 4), features_only=True)[0]
    torch.testing.assert_close(decoder.output_layer(features), features @ decoder.embed_tokens.weight.T)
    assert not any("output_projection" in name for name in decoder.state_dict())


def test_initial_values_follow_the_original(build):
    decoder = build(decoder_embed_dim=128, decoder_ffn_embed_dim=256, decoder_learned_pos=True).decoder
    for table in (decoder.embed_tokens, decoder.embed_positions, decoder.output_projection):
        assert table.weight[2:].std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert decoder.embed_tokens.weight[PAD].abs().sum() == 0
    block = decoder.layers[0]
    for linear in (block.self_attn.q_proj, block.self_attn.out_proj, block.ffn.fc1, block.ffn.fc2):
        assert linear.weight.std().item() == pytest.approx((3 * linear.in_features) ** -0.5, rel=0.05)


def test_embeddings_are_scaled_and_normalised_as_asked(build, tokens):
    batch, plain = tokens(1, 4), dict(no_token_positional_embeddings=True)

    def embeddings(**changes):
        model = build(**plain, **changes).eval()
        return model.decoder.embed_tokens(batch), model(batch, return_all_hiddens=True)[1]["inner_states"][0]

    table, x = embeddings(no_scale_embedding=True)
    torch.testing.assert_close(x, table)
    table, x = embeddings()
    torch.testing.assert_close(x, table * 32**0.5)
    table, x = embeddings(layernorm_embedding=True)
    torch.testing.assert_close(x.std(-1, correction=0), torch.ones(1, 4), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("used", [False, True])
def test_deep_copy_for_ema(build, tokens, used):
    model = build(**BODIES["MH-MoE"], checkpoint_activations=True)
    if used:
        loss_and_gradients(model, tokens(1, 4))
    copied = copy.deepcopy(model).eval()
    assert torch.equal(copied(tokens(1, 4))[0], model.eval()(tokens(1, 4))[0])


def test_two_forwards_before_a_backward(build, tokens):
    model = build(**BODIES["X-MoE with capacity"])
    first, second = model(tokens(1, 6))[0].sum(), model(tokens(1, 6, seed=3))[0].sum()
    (first + second).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("deepnorm, factor", [(False, 1.0), (True, (2 * 2) ** 0.25)])
def test_residual_scale(build, deepnorm, factor):
    decoder = build(deepnorm=deepnorm, decoder_normalize_before=False).decoder
    assert [block.residual_scale for block in decoder.layers] == [factor, factor]


@pytest.mark.parametrize("body", ["sinusoidal", "learned", "rotary"])
def test_host_never_asks_the_device(build, tokens, body):
    # a meta tensor has no values: whatever would wait for one raises
    with torch.device("meta"):
        model = build(**BODIES[body], checkpoint_activations=True)
        model(torch.ones(2, 8, dtype=torch.long))[0].sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("body", ["rotary", "MH-MoE"])
def test_runs_under_autocast(build, tokens, body):
    model, batch = build(**BODIES[body]), tokens(2, 8)
    expected = loss_and_gradients(model, batch)[0].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, gradients = loss_and_gradients(model, batch)
    assert loss.item() == pytest.approx(expected, rel=0.02)
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("body", BODIES)
def test_cuda_equals_cpu(build, tokens, body):
    model, batch = build(**BODIES[body]), tokens(2, 8)
    batch[0, :3] = PAD
    expected = model(batch)[0]
    got = model.cuda()(batch.cuda())[0].cpu()
    torch.testing.assert_close(got[batch.ne(PAD)], expected[batch.ne(PAD)], rtol=1e-3, atol=1e-4)
