"""The registered fairseq model `mhmoe_lm`: dense, sparse, X-MoE and MH-MoE language models by their options."""

from typing import Any

from fairseq.models import FairseqLanguageModel, register_model

from fairseq_mhmoe.models.decoder import MoEDecoder
from fairseq_mhmoe.models.options import MHMoELanguageModelConfig, lm_shape, validate, with_defaults
from fairseq_mhmoe.moe.cost import model_cost


@register_model("mhmoe_lm", dataclass=MHMoELanguageModelConfig)
class MHMoELanguageModel(FairseqLanguageModel):
    """A MoEDecoder as fairseq's programs expect a language model: forward(src_tokens, ...) -> (logits, extra)."""

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "MHMoELanguageModel":
        """Build the model for a task's dictionaries.

        Raises:
            ValueError: options that no model can have.
        """
        cfg = with_defaults(cfg)
        validate(cfg)
        source, target = task.source_dictionary, task.target_dictionary
        if cfg.share_decoder_input_output_embed and len(source) != len(target):
            raise ValueError(
                f"--share-decoder-input-output-embed: the output has {len(target)} entries, the input {len(source)}; "
                "leave it out, or leave out --output-dictionary-size"
            )
        model = cls(MoEDecoder(cfg, source, output_size=len(target)))
        model.shape = lm_shape(cfg, len(target), cfg.tokens_per_sample)
        return model

    def training_flops_per_token(self) -> int:
        """FLOPs of a training step per token: what `mhmoe-cost` prints for this vocabulary and --tokens-per-sample."""
        return model_cost(self.shape).flops_per_token
