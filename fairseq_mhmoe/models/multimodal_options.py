"""Options of the multimodal model; those of its encoder are named as torchscale's."""

from dataclasses import dataclass
from itertools import chain
from typing import Any, Iterator, Optional

from fairseq.dataclass import ChoiceEnum

from fairseq_mhmoe.models.moe_options import MoEOptions, check_kinds, defaults_of, layer_config, option
from fairseq_mhmoe.models.option_checks import Check, experts, ineffective_moe, numbers, refuse, warn
from fairseq_mhmoe.moe.config import MoEConfig
from fairseq_mhmoe.moe.multimodal_cost import MultimodalShape

MODALITIES = ("image", "text")
MOE_MODALITIES = ("shared", "separate")
ACTIVATIONS = ("gelu", "relu")


@dataclass
class MHMoEMultimodalConfig(MoEOptions):
    """Everything that can be chosen about the model; pictures, dictionary and heads are the task's word."""

    encoder_embed_dim: int = option(768, "model width")
    encoder_ffn_embed_dim: int = option(3072, "inner width of the dense feed-forward networks")
    encoder_layers: int = option(12, "number of blocks")
    encoder_attention_heads: int = option(12, "attention heads")
    activation_fn: ChoiceEnum(list(ACTIVATIONS)) = option("gelu", "activation of feed-forward networks and experts")
    dropout: float = option(0.0, "dropout on embeddings, attention and feed-forward outputs")
    attention_dropout: float = option(0.0, "dropout on attention weights")
    activation_dropout: float = option(0.0, "dropout after the activation in feed-forward networks and experts")
    drop_path_rate: float = option(
        0.0, "stochastic depth: the last block leaves out a row's residual branches this often, earlier ones less"
    )
    no_subln: bool = option(False, "plain pre-norm blocks, without norms before each last projection (SubLN)")
    checkpoint_activations: bool = option(False, "recompute each block's activations in the backward pass")
    no_weight_decay_on: str = option("", "parameters without weight decay: a list of norm, bias, router with commas")
    moe_modality: ChoiceEnum(list(MOE_MODALITIES)) = option(
        "shared", "images and text share an MoE layer's experts, or have separate sets, each with its router"
    )


def validate(cfg: Any) -> None:
    """Refuse what can't be built and warn, once per process, about what has no effect.

    Raises:
        ValueError: names the option, its value and the remedy.
    """
    check_options(cfg)
    check_kinds(cfg)
    moe_config(cfg)
    defaults = defaults_of(MHMoEMultimodalConfig)
    warn(cfg, defaults, ineffective_moe(cfg, defaults, "encoder"))


def check_options(cfg: Any) -> None:
    """Raises ValueError for the first option that no model can have, naming it, its value and the remedy."""
    refuse(cfg, chain(numbers(cfg, "encoder"), _body(cfg), experts(cfg, "encoder")))


def _body(cfg: Any) -> Iterator[Check]:
    width = cfg.encoder_embed_dim
    yield (
        width % cfg.encoder_attention_heads != 0,
        "encoder_attention_heads",
        (f"expected a divisor of --encoder-embed-dim {width}"),
    )
    yield not 0 <= cfg.drop_path_rate < 1, "drop_path_rate", "expected a probability in [0, 1)"
    for name, choices in (("activation_fn", ACTIVATIONS), ("moe_modality", MOE_MODALITIES)):
        yield str(getattr(cfg, name)) not in choices, name, f"expected one of {', '.join(choices)}"


def moe_config(cfg: Any) -> Optional[MoEConfig]:
    """The configuration of every MoE layer of the model, of each set of experts; None for a dense one.

    Raises:
        ValueError: names the option, its value and what was expected.
    """
    if not cfg.moe_freq:
        return None
    return layer_config(cfg, side="encoder", subln=not cfg.no_subln)


def moe_sets(cfg: Any) -> int:
    """Sets of experts in an MoE layer: one, or one per modality."""
    return len(MODALITIES) if str(cfg.moe_modality) == "separate" else 1


def multimodal_shape(cfg: Any, vocab_size: int, codes: int, task: Any) -> MultimodalShape:
    """What `fairseq_mhmoe.moe.multimodal_cost` needs to know to count parameters and FLOPs.

    Args:
        task: options of masked_multimodal: sizes, lengths of texts and captions, what is masked in pairs.
    """
    return MultimodalShape(
        vocab_size=vocab_size,
        codes=codes,
        layers=cfg.encoder_layers,
        d_model=cfg.encoder_embed_dim,
        ffn_dim=cfg.encoder_ffn_embed_dim,
        activation=str(cfg.activation_fn),
        subln=not cfg.no_subln,
        image_size=task.image_size,
        patch_size=task.patch_size,
        text_positions=max(task.tokens_per_sample, task.caption_length),
        tokens_per_sample=task.caption_length,
        moe_freq=cfg.moe_freq,
        moe=moe_config(cfg),
        moe_sets=moe_sets(cfg),
        image_masked=task.pair_image_mask_ratio,
        text_masked=task.pair_text_mask_ratio,
    )


def has_experts(cfg: Any, number: int) -> bool:
    """Whether block `number`, counted from 0, has an MoE layer."""
    return bool(cfg.moe_freq) and (number + 1) % cfg.moe_freq == 0
