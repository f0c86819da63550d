"""Training losses; importing this package registers them with fairseq."""

from fairseq_mhmoe.criterions import masked_multimodal, moe_cross_entropy

__all__ = ["masked_multimodal", "moe_cross_entropy"]
