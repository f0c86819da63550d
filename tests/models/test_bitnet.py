"""BitNet language models: what is quantised, in which precision they run, and that they learn."""

import pytest
import torch
import torch.nn.functional as F

from fairseq_mhmoe.moe.bitlinear import TernaryLinear
from tests.torch_features import needs_grouped_mm

BITS = dict(input_bits=8, weight_bits=1, input_quant_method="absmax_per_token", weight_quant_method="absmean")
BODY = dict(activation_fn="silu", rms_norm=True, no_bias=True, rotary_embed=True, no_token_positional_embeddings=True)
EXPERTS = dict(moe_freq=2, moe_expert_count=4, moe_top_k=2, moe_ffn_dim=16, mhmoe_heads_number=2)
BODIES = {"dense": BODY, "MH-MoE": BODY | EXPERTS, "shared expert": BODY | EXPERTS | dict(moe_shared_expert_dim=16)}


def loss_of(model, batch):
    logits, extra = model(batch)
    loss = F.cross_entropy(logits.float()[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
    return loss + 0.01 * sum(extra["l_aux"])


def gradients(model, batch):
    model.zero_grad()
    loss_of(model, batch).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_attention_feed_forward_experts_head_and_merge_layers_are_quantised_and_nothing_else(build):
    model = build(**BODIES["shared expert"], **BITS)
    ternary = {name for name, module in model.named_modules() if isinstance(module, TernaryLinear)}
    expected = {f"layers.{i}.self_attn.{name}_proj" for i in range(2) for name in ("q", "k", "v", "out")}
    expected |= {f"layers.0.ffn.fc{i}" for i in (1, 2, 3)} | {
        f"layers.1.moe_layer.{name}.0" for name in ("head", "merge")
    }
    assert ternary == {f"decoder.{name}" for name in expected}
    moe = model.decoder.layers[1].moe_layer
    assert moe.experts.quantization == moe.shared.quantization == (True, True)


def test_the_published_program_leaves_head_and_merge_layers_alone(build):
    moe = build(**BODIES["MH-MoE"], **BITS, moe_compat="published").decoder.layers[1].moe_layer
    assert type(moe.head[0]) is type(moe.merge[0]) is torch.nn.Linear
    assert moe.config.projection_quantization == (False, False) and moe.experts.quantization == (True, True)


@pytest.mark.parametrize("body", BODIES)
def test_parameters_are_those_of_the_full_precision_model(build, body):
    plain, quantized = build(**BODIES[body]), build(**BODIES[body], **BITS)
    for (name, parameter), (other, same) in zip(plain.named_parameters(), quantized.named_parameters()):
        assert name == other and torch.equal(parameter, same)


@pytest.mark.parametrize("body", BODIES)
def test_recomputation_changes_no_gradient(build, tokens, body):
    batch, again = tokens(2, 8), dict(checkpoint_activations=True, moe_recompute="moe_freq" in BODIES[body])
    plain, recomputed = (gradients(build(**BODIES[body], **BITS, **how), batch) for how in ({}, again))
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mixed", [False, True])
def test_runs_in_half_precision(build, tokens, dtype, mixed):
    model, batch = build(**BODIES["shared expert"], **BITS), tokens(2, 8)
    exact = loss_of(model, batch).item()
    if not mixed:
        model = model.to(dtype)
    with torch.autocast("cpu", dtype, enabled=mixed):
        loss = loss_of(model, batch)
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=0.05)
    for name, parameter in model.named_parameters():
        kept = torch.float32 if mixed or ".router." in name else dtype
        assert parameter.dtype == parameter.grad.dtype == kept and parameter.grad.isfinite().all(), name


@needs_grouped_mm
def test_shapes_on_the_meta_device(build, tokens):
    model = build(**BODIES["shared expert"], **BITS).to("meta", torch.bfloat16)
    logits, _ = model(tokens(2, 8).to("meta"))
    logits.sum().backward()
    assert logits.shape == (2, 8, 101)
    assert all(p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("body", ["dense", "MH-MoE"])
def test_a_text_is_learned(build, tokens, body):
    model, batch = build(**BODIES[body], **BITS), tokens(2, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(loss_of(model, batch))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
