"""The original's example command line, made small: it runs, and says which of its options do nothing here."""

import pytest

# What scripts/run.sh passes on for the published example line; only sizes differ.
PUBLISHED = dict(
    arch="gpt_small_v2",
    tokens_per_sample=64,
    update_freq=4,
    batch_size=2,
    adam_betas="(0.9, 0.95)",
    adam_eps=1e-6,
    clip_norm=2.0,
    lr=6e-4,
    end_learning_rate=3e-5,
    lr_scheduler="polynomial_decay",
    total_num_update=100,
    warmup_updates=2,
    weight_decay=0.1,
    dropout=0.0,
    attention_dropout=0.0,
    memory_efficient_fp16=True,
    fp16_init_scale=4,
    checkpoint_activations=True,
    ddp_backend="no_c10d",
    moe_gate_loss_wt=0.01,
    moe_gate_loss_combine_method="sum",
    moe_gating_use_fp32=True,
    moe_normalize_gate_prob_before_dropping=True,
    moe_eval_capacity_token_fraction=-1.0,
    moe_expert_count=8,
    moe_freq=2,
    moe_top_k=1,
    moe_top1_expert=True,
    moe_second_expert_policy="random",
    moe_ffn_dim=32,
    pad_to_max_len=True,
    activation_fn="silu",
    share_decoder_input_output_embed=True,
    flash_attention=True,
    rotary_embed=True,
    no_token_positional_embeddings=True,
    no_scale_embedding=True,
    no_bias=True,
    rms_norm=True,
    batch_read_ahead=100,
    input_quant_method="absmax_per_token",
    weight_quant_method="absmean",
    input_bits=32,
    weight_bits=32,
    scale_length=64,
    mhmoe_heads_number=1,
    max_update=3,
)
WITHOUT_EFFECT = [
    "--flash-attention",
    "--scale-length",
    "--input-quant-method",
    "--weight-quant-method",
    "--moe-gating-use-fp32",
    "--moe-top1-expert",
    "--moe-second-expert-policy",
    "--moe-normalize-gate-prob-before-dropping",
]


@pytest.fixture(scope="module")
def smoe(train, tiny_data_dir, tmp_path_factory):
    return train(tmp_path_factory.mktemp("smoe"), **PUBLISHED, spm_model=tiny_data_dir / "spm.model")


def test_the_example_trains(smoe):
    assert [line["num_updates"] for line in smoe.json_lines("train_inner")] == ["1", "2", "3"]


@pytest.mark.parametrize("option", WITHOUT_EFFECT)
def test_an_option_without_effect_is_named_once(smoe, option):
    warnings = [line for line in smoe.output.splitlines() if f"{option} has no effect" in line]
    assert len(warnings) == 1
    assert "WARNING" in warnings[0]


def test_the_example_trains_with_heads_and_the_published_layer(train, tmp_path):
    options = {**PUBLISHED, "mhmoe_heads_number": 3, "moe_top_k": 2, "moe_top1_expert": False}
    result = train(tmp_path, **options, moe_compat="published")
    dropped = [float(line["moe_dropped"]) for line in result.json_lines("train_inner")]
    assert len(dropped) == 3
    assert all(0 < share < 1 for share in dropped)
