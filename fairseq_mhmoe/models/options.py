"""Options of the language model, and what they mean to the MoE layer and to the cost model.

fairseq builds the command line from the dataclass: flags default to False and are named as in the original program.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum
from omegaconf import II, OmegaConf, open_dict

from fairseq_mhmoe.models.moe_options import (
    EXPERT_ACTIVATIONS,
    MoEOptions,
    check_kinds,
    defaults_of,
    layer_config,
    moe_group,  # noqa: F401  for the decoder
    option,
)
from fairseq_mhmoe.models.option_checks import check_options, warn_ineffective
from fairseq_mhmoe.moe.config import MoEConfig
from fairseq_mhmoe.moe.cost import LanguageModelShape


@dataclass
class MHMoELanguageModelConfig(MoEOptions):
    """Everything that can be chosen about the model; `validate` says what can't be combined."""

    decoder_embed_dim: int = option(768, "model width")
    decoder_ffn_embed_dim: int = option(3072, "inner width of the dense feed-forward networks")
    decoder_layers: int = option(12, "number of blocks")
    decoder_attention_heads: int = option(12, "attention heads")
    n_kv_heads: Optional[int] = option(None, "key/value heads, shared by groups of attention heads; default: as many")
    dropout: float = option(0.0, "dropout on embeddings, attention and feed-forward outputs")
    attention_dropout: float = option(0.0, "dropout on attention weights")
    activation_dropout: float = option(0.0, "dropout after the activation in feed-forward networks and experts")
    activation_fn: ChoiceEnum(list(EXPERT_ACTIVATIONS)) = option("gelu", "activation; silu means SwiGLU (3 matrices)")
    rms_norm: bool = option(False, "RMSNorm instead of LayerNorm")
    no_bias: bool = option(False, "no biases in attention, feed-forward networks and experts")
    rotary_embed: bool = option(False, "rotary positions in attention")
    no_token_positional_embeddings: bool = option(False, "no positions added to the embeddings")
    decoder_learned_pos: bool = option(False, "learned instead of sinusoidal position embeddings")
    no_scale_embedding: bool = option(False, "do not multiply embeddings by sqrt(width)")
    layernorm_embedding: bool = option(False, "norm after the embeddings")
    share_decoder_input_output_embed: bool = option(False, "tie output projection and embeddings")
    decoder_normalize_before: bool = option(False, "pre-norm blocks (every named architecture has them)")
    subln: bool = option(False, "SubLN: norms before the attention's and the feed-forward's last projection")
    deepnorm: bool = option(False, "DeepNorm: post-norm blocks with scaled residuals")
    checkpoint_activations: bool = option(False, "recompute each block's activations in the backward pass")
    flash_attention: bool = option(False, "accepted for old command lines; torch chooses the attention kernel")
    scale_length: int = option(0, "accepted for old command lines; without effect")
    no_weight_decay_on: str = option("", "parameters without weight decay: a list of norm, bias, router with commas")
    input_bits: int = option(32, "8: the inputs of linear layers and experts are quantised (BitNet b1.58); 32: not")
    weight_bits: int = option(32, "1: the weights of linear layers and experts are ternary (BitNet b1.58); 32: not")
    input_quant_method: Optional[str] = option(None, "how inputs are quantised; absmax_per_token")
    weight_quant_method: Optional[str] = option(None, "how weights are quantised; absmean")
    add_bos_token: bool = II("task.add_bos_token")
    tokens_per_sample: int = II("task.tokens_per_sample")
    max_target_positions: Optional[int] = II("task.max_target_positions")


def with_defaults(cfg: Any, options: type = MHMoELanguageModelConfig) -> Any:
    """Add options that an older checkpoint's configuration does not know yet, at their defaults."""
    if OmegaConf.is_config(cfg):
        with open_dict(cfg):
            for item in dataclasses.fields(options):
                if item.name not in cfg and not item.name.startswith("_") and not str(item.default).startswith("${"):
                    cfg[item.name] = item.default
    return cfg


def validate(cfg: Any) -> None:
    """Refuse what can't be built and warn, once per process, about what has no effect.

    Raises:
        ValueError: names the option, its value and the remedy.
    """
    check_options(cfg)
    check_kinds(cfg)
    moe_config(cfg)
    warn_ineffective(cfg, defaults_of(MHMoELanguageModelConfig))


def max_positions(cfg: Any) -> int:
    """Longest sequence, in tokens: --max-target-positions, else --tokens-per-sample (and its <s>)."""
    if cfg.max_target_positions is not None:
        return cfg.max_target_positions
    return cfg.tokens_per_sample + int(cfg.add_bos_token)


def moe_config(cfg: Any) -> Optional[MoEConfig]:
    """The configuration of every MoE layer of the model; None for a dense one.

    Raises:
        ValueError: names the option, its value and what was expected.
    """
    if not cfg.moe_freq:
        return None
    return layer_config(
        cfg,
        side="decoder",
        bias=not cfg.no_bias,
        subln=cfg.subln,
        rms_norm=cfg.rms_norm,
        input_bits=cfg.input_bits,
        weight_bits=cfg.weight_bits,
    )


def lm_shape(cfg: Any, vocab_size: int, tokens_per_sample: int) -> LanguageModelShape:
    """What `fairseq_mhmoe.moe.cost` needs to know to count parameters and FLOPs."""
    learned = cfg.decoder_learned_pos and not cfg.no_token_positional_embeddings
    limit = cfg.max_target_positions
    positions = tokens_per_sample if limit is None or str(limit).startswith("${") else limit  # else: no task yet
    return LanguageModelShape(
        vocab_size=vocab_size,
        layers=cfg.decoder_layers,
        d_model=cfg.decoder_embed_dim,
        attention_heads=cfg.decoder_attention_heads,
        kv_heads=kv_heads(cfg),
        ffn_dim=cfg.decoder_ffn_embed_dim,
        activation=EXPERT_ACTIVATIONS[str(cfg.activation_fn)],
        bias=not cfg.no_bias,
        rms_norm=cfg.rms_norm,
        subln=cfg.subln,
        tied=cfg.share_decoder_input_output_embed,
        learned_positions=positions + 2 if learned else 0,  # fairseq's table has two more rows
        layernorm_embedding=cfg.layernorm_embedding,
        tokens_per_sample=tokens_per_sample,
        moe_freq=cfg.moe_freq,
        moe=moe_config(cfg),
        pre_norm=cfg.decoder_normalize_before,
    )


def kv_heads(cfg: Any) -> int:
    """Key/value heads, with the default resolved."""
    return cfg.decoder_attention_heads if cfg.n_kv_heads is None else cfg.n_kv_heads
