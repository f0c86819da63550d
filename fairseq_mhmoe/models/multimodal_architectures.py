"""Named architectures of the multimodal model: one table of options, on top of the defaults in multimodal_options.py.

An option given on the command line wins over the table.
"""

from typing import Any, Dict

from fairseq.models import register_model_architecture

from fairseq_mhmoe.models import multimodal  # noqa: F401  registers mhmoe_multimodal
from fairseq_mhmoe.models.architectures import V1_EXPERT_WIDTHS, V1_EXPERTS, Options, experts, set_missing


def encoder(width: int, layers: int, heads: int, ffn: int) -> Options:
    """The options that give an encoder its size."""
    return dict(
        encoder_embed_dim=width, encoder_layers=layers, encoder_attention_heads=heads, encoder_ffn_embed_dim=ffn
    )


NORMALIZED = dict(moe_normalize_gate_prob_before_dropping=True)
TINY = encoder(128, 4, 4, 512)
BASE = encoder(768, 12, 12, 3072)
LARGE = encoder(1024, 24, 16, 4096)

MULTIMODAL_ARCHITECTURES: Dict[str, Options] = {
    # For laptops and tests, 64-96 pixels: equal training FLOPs per token, and equal parameters with experts.
    "dense_multimodal_tiny": TINY,
    "smoe_multimodal_tiny": TINY | experts(8, top_k=2, ffn=256, **NORMALIZED),
    "xmoe_multimodal_tiny": TINY | experts(8, top_k=2, ffn=248, **V1_EXPERTS),
    "mhmoe_multimodal_tiny": TINY | experts(20, top_k=2, ffn=192, heads=2, **V1_EXPERTS),
    # v1: BEiT-3's base encoder, 8 experts of which 2 are chosen.
    "dense_multimodal_base": BASE,
    "smoe_multimodal_base": BASE | experts(8, top_k=2, ffn=3072, **NORMALIZED),
    "xmoe_multimodal_base": BASE | experts(8, top_k=2, ffn=3072, **V1_EXPERTS),
    "mhmoe_multimodal_base": BASE | experts(8, top_k=2, ffn=V1_EXPERT_WIDTHS[8].d_ff, heads=4, **V1_EXPERTS),
    # BEiT-3's large encoder; experts as wide, relative to the model, as those of base.
    "dense_multimodal_large": LARGE,
    "smoe_multimodal_large": LARGE | experts(8, top_k=2, ffn=4096, **NORMALIZED),
    "xmoe_multimodal_large": LARGE | experts(8, top_k=2, ffn=4096, **V1_EXPERTS),
    "mhmoe_multimodal_large": LARGE | experts(8, top_k=2, ffn=15296, heads=4, **V1_EXPERTS),
}


def _preset(options: Options) -> Any:
    return lambda args: set_missing(options, args)


for _name, _options in MULTIMODAL_ARCHITECTURES.items():
    register_model_architecture("mhmoe_multimodal", _name)(_preset(_options))
