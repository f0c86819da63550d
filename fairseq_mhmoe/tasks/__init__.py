"""Tasks that register themselves with fairseq when they are imported."""

from fairseq_mhmoe.tasks import captioning, gpt, masked_multimodal, nlvr2, vqa  # noqa: F401
