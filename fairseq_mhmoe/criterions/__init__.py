"""Training losses; importing this package registers them with fairseq."""

from fairseq_mhmoe.criterions import captioning, finetuning, masked_multimodal, moe_cross_entropy

__all__ = ["captioning", "finetuning", "masked_multimodal", "moe_cross_entropy"]
