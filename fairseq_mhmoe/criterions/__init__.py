"""Training losses; importing this package registers them with fairseq."""

from fairseq_mhmoe.criterions import moe_cross_entropy

__all__ = ["moe_cross_entropy"]
