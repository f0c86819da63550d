"""fairseq_mhmoe.moe.multimodal_cost against counted parameters and FLOPs; the sizes that the paper tells."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fairseq_mhmoe.models.multimodal import MHMoEMultimodalModel
from fairseq_mhmoe.models.multimodal_architectures import MULTIMODAL_ARCHITECTURES
from fairseq_mhmoe.models.multimodal_options import MHMoEMultimodalConfig, multimodal_shape
from fairseq_mhmoe.moe.multimodal_cost import multimodal_cost
from fairseq_mhmoe.moe.parity import everything, layer_figures

CODES, BEIT3_SYMBOLS, BEIT3_TEXT = 8192, 64010, 1022
PAPER_DENSE = 277e6
SIZES = dict(image_size=224, patch_size=16, caption_length=64, pair_image_mask_ratio=0.4, pair_text_mask_ratio=0.5)


class Symbols(SimpleNamespace):
    """As much of a dictionary as a model asks for."""

    def __len__(self):
        return self.size

    def pad(self):
        return 1


def shape_of(arch, **changes):
    cfg = MHMoEMultimodalConfig(**{**MULTIMODAL_ARCHITECTURES[arch], **changes})
    return cfg, multimodal_shape(cfg, BEIT3_SYMBOLS, CODES, SimpleNamespace(tokens_per_sample=BEIT3_TEXT, **SIZES))


def count(cfg):
    heads = {"image": {"kind": "codes", "classes": CODES}, "text": {"kind": "text"}}
    task = dict(image_size=224, patch_size=16, max_text_positions=BEIT3_TEXT, model_heads=lambda: heads)
    task["cost_options"] = lambda: SimpleNamespace(tokens_per_sample=BEIT3_TEXT, **SIZES)
    with torch.device("meta"):
        return MHMoEMultimodalModel.build_model(
            cfg, SimpleNamespace(source_dictionary=Symbols(size=BEIT3_SYMBOLS), **task)
        )


@pytest.mark.parametrize("arch, changes", [
    *((arch, {}) for arch in MULTIMODAL_ARCHITECTURES if "large" not in arch or "dense" in arch),
    ("mhmoe_multimodal_tiny", dict(moe_modality="separate", moe_shared_expert_dim=32)),
    ("xmoe_multimodal_tiny", dict(no_subln=True, moe_freq=1)),
])  # fmt: skip
def test_parameters(arch, changes):
    cfg, shape = shape_of(arch, **changes)
    model, cost = count(cfg), multimodal_cost(shape)
    assert cost.params_total == sum(p.numel() for p in model.parameters())
    assert cost.flops_per_token == model.training_flops_per_token()
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    assert cost.params_expert == experts == cost.params_total - cost.params_non_expert
    assert cost.params_non_expert < cost.params_activated + 1 <= cost.params_total + 1


def test_base_is_as_large_as_the_papers():
    """BEiT-3's dictionary and positions; the paper says 277M for the dense model and nothing for the others."""
    totals = {}
    for kind in ("dense", "smoe", "xmoe", "mhmoe"):
        for experts in (8, 32) if kind != "dense" else (0,):
            changes = dict(moe_expert_count=experts) if experts else {}
            if (kind, experts) == ("mhmoe", 32):
                changes["moe_ffn_dim"] = 12096
            cost = multimodal_cost(shape_of(f"{kind}_multimodal_base", **changes)[1])
            totals[kind, experts] = cost.params_total
            print(f"{kind:>6} {experts or '':>3} {cost.params_total / 1e6:8.1f}M, {cost.params_expert / 1e6:6.1f}M of "
                  f"experts; paper's dense model {PAPER_DENSE / 1e6:.0f}M")  # fmt: skip
    assert 276e6 < totals["dense", 0] < 277e6
    for experts in (8, 32):  # the papers' experts: MH-MoE has what X-MoE has, a little less
        assert totals["mhmoe", experts] == pytest.approx(totals["xmoe", experts], rel=0.02)


def test_tiny_models_cost_the_same():
    """Training FLOPs of the layers that differ, and parameters where there are experts."""
    costs = {
        kind: multimodal_cost(shape_of(f"{kind}_multimodal_tiny")[1]) for kind in ("dense", "smoe", "xmoe", "mhmoe")
    }
    layers = {kind: layer_figures(shape_of(f"{kind}_multimodal_tiny")[1], everything) for kind in costs}
    for kind in ("smoe", "xmoe", "mhmoe"):
        assert layers[kind].flops == pytest.approx(layers["dense"].flops, rel=0.016)
        assert layers[kind].params == pytest.approx(layers["xmoe"].params, rel=0.05)
        assert costs[kind].flops_per_token == pytest.approx(costs["dense"].flops_per_token, rel=0.003)


SMALL = dict(encoder_embed_dim=48, encoder_ffn_embed_dim=32, encoder_layers=2, encoder_attention_heads=4)
EXPERTS = dict(moe_freq=2, moe_expert_count=4, moe_top_k=2, moe_ffn_dim=16, moe_expert_backend="loop")


@pytest.mark.parametrize("changes", [
    dict(),
    EXPERTS | dict(use_xmoe=True),
    EXPERTS | dict(mhmoe_heads_number=2, moe_modality="separate", no_subln=True),
])  # fmt: skip
def test_flops_are_counted_ones(multimodal, multimodal_options, make_stream, changes):
    changes = SMALL | changes
    stream = make_stream(2, 8)
    sizes = SimpleNamespace(image_size=24, patch_size=8, caption_length=8, tokens_per_sample=20)
    sizes.pair_image_mask_ratio, sizes.pair_text_mask_ratio = 4 / 9, 0.5
    shape = multimodal_shape(multimodal_options(**changes), vocab_size=101, codes=16, task=sizes)
    stream["image_positions"], stream["text_positions"] = torch.arange(8), torch.arange(8)
    model = multimodal(**changes)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the fused kernels are not counted
        out, _ = model(pair=stream)
        (out["pair"]["image"].sum() + out["pair"]["text"].sum()).backward()
    tokens = 2 * (1 + 9 + 8)
    patches = 2 * 2 * 18 * 192 * 48  # no gradient of the pixels; the count is three passes
    assert counter.get_total_flops() + patches // 2 == pytest.approx(
        tokens * multimodal_cost(shape).flops_per_token, rel=0.01
    )


def test_separate_sets_are_two(multimodal_options):
    shared = shape_of("xmoe_multimodal_tiny")[1]
    one, two = multimodal_cost(shared), multimodal_cost(replace(shared, moe_sets=2))
    assert two.params_expert == 2 * one.params_expert and two.flops_per_token == one.flops_per_token
