"""fairseq_mhmoe.moe.cost against counted parameters and FLOPs of whole models."""

import pytest
import torch
from fairseq.data import Dictionary
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fairseq_mhmoe.models.architectures import ARCHITECTURES, apply_architecture
from fairseq_mhmoe.models.decoder import MoEDecoder
from fairseq_mhmoe.models.options import MHMoELanguageModelConfig, lm_shape
from fairseq_mhmoe.moe.cost import model_cost

VOCABULARY, LENGTH = 50, 12


def options(arch: str, **changes) -> MHMoELanguageModelConfig:
    """A named architecture's options."""
    chosen = type("Options", (), {})()
    apply_architecture(ARCHITECTURES[arch], chosen)
    fields = dict(add_bos_token=False, tokens_per_sample=LENGTH, max_target_positions=None)
    return MHMoELanguageModelConfig(**{**fields, **vars(chosen), **changes})


def build(cfg: MHMoELanguageModelConfig) -> MoEDecoder:
    dictionary = Dictionary()
    for i in range(VOCABULARY - len(dictionary)):
        dictionary.add_symbol(f"word{i}")
    return MoEDecoder(cfg, dictionary)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_parameters_of_every_architecture(arch):
    cfg = options(arch)
    with torch.device("meta"):
        model = build(cfg)
    cost = model_cost(lm_shape(cfg, VOCABULARY, LENGTH))
    assert cost.params_total == sum(p.numel() for p in model.parameters())
    experts = [p.numel() for block in model.layers if block.is_moe for p in block.moe_layer.experts.parameters()]
    assert cost.params_expert == sum(experts)
    assert cost.params_activated <= cost.params_total == cost.params_expert + cost.params_non_expert


SMALL = dict(
    decoder_embed_dim=16,
    decoder_ffn_embed_dim=24,
    decoder_layers=2,
    decoder_attention_heads=2,
    moe_expert_backend="loop",
)
EXPERTS = dict(moe_freq=2, moe_expert_count=4, moe_top_k=2, moe_ffn_dim=8)


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(subln=True, no_bias=True, share_decoder_input_output_embed=True, n_kv_heads=1),
        dict(decoder_learned_pos=True, layernorm_embedding=True, activation_fn="relu"),
        dict(deepnorm=True, decoder_normalize_before=False, rms_norm=True, max_target_positions=40),
        dict(activation_fn="silu", rotary_embed=True, no_token_positional_embeddings=True, **EXPERTS),
        dict(mhmoe_heads_number=4, use_xmoe=True, subln=True, moe_shared_expert_dim=6, **EXPERTS),
    ],
    ids=lambda changes: "+".join(changes) or "plain",
)
def test_parameters_and_flops_of_every_kind_of_model(changes):
    cfg = options("gpt_small", **{**SMALL, **changes})
    model = build(cfg)
    cost = model_cost(lm_shape(cfg, VOCABULARY, LENGTH))
    assert cost.params_total == sum(p.numel() for p in model.parameters())
    tokens = torch.randint(4, VOCABULARY, (3, LENGTH))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the fused kernels are not counted
        model(tokens)[0].sum().backward()
    # the balance loss multiplies a vector with a matrix, too
    assert counter.get_total_flops() == pytest.approx(3 * LENGTH * cost.flops_per_token, rel=0.003)
