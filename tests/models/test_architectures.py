import pytest
import torch
import torch.nn.functional as F
from fairseq.models import ARCH_MODEL_NAME_REGISTRY

from fairseq_mhmoe.models.architectures import ARCHITECTURES
from fairseq_mhmoe.models.options import lm_shape
from fairseq_mhmoe.moe.cost import model_cost

CL100K = 100288  # rows of an embedding for that vocabulary
# MH-MoE v1, table 11, in millions
TABLE_11 = {"dense_lm_v1": (162, 0), "xmoe_lm_v1": (134, 227), "mhmoe_lm_v1": (141, 213)}
# papers' sizes, and the original names' by width x layers (heads, inner width)
SIZES = {
    "gpt_tiny": (512, 6, 8, 2048),
    "gpt_small": (768, 12, 12, 3072),
    "gpt_small_v2": (768, 12, 12, 2048),
    "gpt_medium": (1024, 24, 16, 4096),
    "gpt_medium_v2": (1024, 24, 16, 2730),
    "gpt_large": (1536, 24, 16, 6144),
    "gpt_xl": (2048, 24, 32, 8192),
    "gpt_2_7B": (2560, 32, 32, 10240),
    "gpt_6_7B": (4096, 32, 32, 16384),
    "llama_7B": (4096, 32, 32, 11008),
}
SHRUNKEN = dict(decoder_embed_dim=48, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_embed_dim=96)


def shrink(arch):
    """Options that make an architecture small and keep its kind: head number, choices, router, norms."""
    if arch.endswith("_tiny") and arch.split("_")[1] == "lm":
        return {}
    small = dict(SHRUNKEN, dropout=0.0)
    if ARCHITECTURES[arch].get("moe_freq"):
        small |= dict(moe_ffn_dim=64, moe_expert_count=6)
    return small


def test_every_architecture_is_registered():
    assert all(ARCH_MODEL_NAME_REGISTRY[arch] == "mhmoe_lm" for arch in ARCHITECTURES)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_full_size_builds_and_counts_as_the_cost_model_says(build, options, arch):
    with torch.device("meta"):
        model = build(arch=arch)
    shape = lm_shape(options(arch=arch), vocab_size=101, tokens_per_sample=32)
    assert sum(p.numel() for p in model.parameters()) == model_cost(shape).params_total


@pytest.mark.parametrize("arch", TABLE_11)
def test_parameter_counts_of_the_first_paper(options, arch):
    cost = model_cost(lm_shape(options(arch=arch), vocab_size=CL100K, tokens_per_sample=2048))
    assert (round(cost.params_non_expert / 1e6), round(cost.params_expert / 1e6)) == TABLE_11[arch]


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_a_family_costs_the_same_flops_and_its_sparse_members_the_same_parameters(options, size):
    costs = {
        kind: model_cost(lm_shape(options(arch=f"{kind}_lm_{size}"), vocab_size=8000, tokens_per_sample=256))
        for kind in ("dense", "smoe", "xmoe", "mhmoe")
    }
    assert all(c.flops_per_token == pytest.approx(costs["dense"].flops_per_token, rel=0.01) for c in costs.values())
    sparse = [costs[kind].params_total for kind in ("smoe", "xmoe", "mhmoe")]
    assert max(sparse) < 1.03 * min(sparse)


@pytest.mark.parametrize("arch", SIZES)
def test_the_originals_names_give_its_sizes_and_stay_dense(options, arch):
    cfg = options(arch=arch)
    sizes = (cfg.decoder_embed_dim, cfg.decoder_layers, cfg.decoder_attention_heads, cfg.decoder_ffn_embed_dim)
    assert sizes == SIZES[arch] and cfg.moe_freq == 0


@pytest.mark.parametrize("deepnorm", [False, True])
def test_blocks_are_pre_norm_unless_deepnorm(options, deepnorm):
    assert options(arch="gpt_tiny", deepnorm=deepnorm).decoder_normalize_before is not deepnorm


def test_what_is_given_wins_over_the_table(options):
    assert options(arch="mhmoe_lm_v2", moe_expert_count=16).moe_expert_count == 16


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_overfits_one_batch_with_all_routers_learning(build, arch):
    """97 distinct tokens in random order, each predicting the next: loss under 0.1 within 60 steps of Adam."""
    experts = dict(moe_freq=2, moe_expert_count=6, moe_top_k=2, mhmoe_heads_number=2)
    dense_name = arch in SIZES or arch.startswith("dense")
    model = build(arch=arch, **shrink(arch), **(experts if arch in SIZES else {}), tokens_per_sample=128)
    line = torch.randperm(97, generator=torch.Generator().manual_seed(0)).add(4).unsqueeze(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    routers = {name: p for name, p in model.named_parameters() if ".router." in name}
    assert bool(routers) == (not dense_name or arch in SIZES)
    learned = dict.fromkeys(routers, 0.0)
    for _ in range(60):
        logits, extra = model(line[:, :-1])
        loss = F.cross_entropy(logits[0], line[0, 1:])
        optimizer.zero_grad()
        (loss + 0.01 * sum(extra["l_aux"])).backward()
        optimizer.step()
        learned = {name: learned[name] + p.grad.abs().sum().item() for name, p in routers.items()}
        if loss < 0.1:
            break
    assert loss < 0.1
    assert all(total > 0 for total in learned.values())


@pytest.mark.parametrize("arch", [name for name, options in ARCHITECTURES.items() if "moe_freq" in options])
def test_each_expert_starts_like_linear_layers_of_its_own(build, arch):
    # SubLN (v1) scales all of them by sqrt(log(2 * layers)), 4 layers here
    small = dict(decoder_embed_dim=96, decoder_layers=4, decoder_attention_heads=4, moe_expert_count=8, moe_ffn_dim=256)
    model = build(arch=arch, **small)
    scale = 1.442 if model.decoder.layers[0].self_attn.inner_attn_ln is not None else 1.0
    for block in model.decoder.layers:
        if not block.is_moe:
            continue
        experts = block.moe_layer.experts
        for weights in (experts.w_in, experts.w_out):
            fan_in = weights.shape[2]
            for expert in weights:
                assert expert.std().item() == pytest.approx(scale * (3 * fan_in) ** -0.5, rel=0.03)
                assert expert.abs().max().item() <= scale * fan_in**-0.5 * 1.001
        assert not torch.equal(experts.w_in[0], experts.w_in[1])
