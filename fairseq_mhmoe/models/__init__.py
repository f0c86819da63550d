"""fairseq models around the MoE layer; importing this package registers them and their architectures."""

from fairseq_mhmoe.models import architectures, language_model, multimodal, multimodal_architectures  # noqa: F401
