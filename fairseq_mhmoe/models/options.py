"""Options of the language model, and what they mean to the MoE layer and to the cost model.

fairseq builds the command line from the dataclass: flags default to False and are named as in the original program.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II, OmegaConf, open_dict

from fairseq_mhmoe.models.option_checks import check_options, flag, warn_ineffective, warn_ineffective_in_group
from fairseq_mhmoe.moe.config import (
    BACKENDS,
    BALANCE_SCOPES,
    COMPAT,
    EXCHANGES,
    ROUTERS,
    SECOND_POLICIES,
    MoEConfig,
)
from fairseq_mhmoe.moe.cost import LanguageModelShape
from fairseq_mhmoe.moe.parallel import ExpertGroup, expert_group, layout_is_chosen
from fairseq_mhmoe.moe.parameter_kinds import parse_kinds

EXPERT_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "silu": "swiglu"}


def option(default, text):
    """A field with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass
class MHMoELanguageModelConfig(FairseqDataclass):
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
    moe_expert_count: int = option(0, "experts per MoE layer; 0: dense model")
    moe_freq: int = option(0, "every moe-freq-th block has an MoE layer; 0: dense model")
    moe_top_k: int = option(1, "experts chosen per (sub-)token")
    moe_top1_expert: bool = option(False, "one expert per (sub-)token; the same as --moe-top-k 1")
    moe_ffn_dim: Optional[int] = option(None, "inner width of an expert; default: decoder-ffn-embed-dim")
    mhmoe_heads_number: int = option(1, "sub-tokens per token: MH-MoE if more than 1")
    mhmoe_head_layers: Optional[int] = option(None, "linear layers before the split, 0-3; default: 1 in MH-MoE")
    mhmoe_merge_layers: Optional[int] = option(None, "linear layers after the merge, 0-3; default as above")
    mhmoe_residual: bool = option(False, "add each sub-token to its experts' output (v1 equation 6)")
    use_xmoe: bool = option(False, "the same as --moe-router xmoe")
    moe_router: ChoiceEnum(list(ROUTERS)) = option("softmax", "how gates are computed")
    moe_router_dim: Optional[int] = option(None, "width of the cosine routers' space; default 16, for MH-MoE 16/heads")
    moe_router_temperature: float = option(0.3, "where the xmoe router's learnable temperature starts")
    moe_gating_use_fp32: bool = option(False, "accepted for old command lines; the router always computes in float32")
    moe_second_expert_policy: ChoiceEnum(list(SECOND_POLICIES)) = option(
        "all", "use choices after the first always, at random by their gate, or by sampling"
    )
    moe_normalize_gate_prob_before_dropping: bool = option(False, "divide a token's gates by their sum")
    moe_capacity_factor: float = option(
        0.0, "an expert takes top-k * floor(factor * tokens / experts) choices; 0: all, nothing is dropped"
    )
    moe_eval_capacity_token_fraction: float = option(
        -1.0, "in evaluation an expert takes this share of the tokens; negative: as in training"
    )
    moe_batch_prioritized_routing: bool = option(False, "serve tokens with large gates first when capacity is limited")
    moe_shared_expert_dim: int = option(0, "inner width of an expert that every token passes; 0: none")
    moe_expert_backend: ChoiceEnum(list(BACKENDS)) = option("auto", "how the experts' matrix products are computed")
    moe_recompute: bool = option(
        False, "compute the experts' pre-activations again in the backward pass: less memory, up to 1.2 x the time"
    )
    moe_fused_activation: bool = option(
        False, "compile the experts' SwiGLU to one kernel (torch.compile) at the first step, which takes up to a minute"
    )
    moe_expert_parallel_size: Optional[int] = option(
        None, "processes that share one copy of the experts; default: the largest number that divides both counts"
    )
    moe_exchange: ChoiceEnum(list(EXCHANGES)) = option(
        "counts", "send other processes the rows that there are, or --moe-capacity-factor's fixed number per expert"
    )
    moe_rank_capacity_factor: float = option(
        0.0, "a process sends another at most this many times an even share of its rows, the rest is dropped; 0: all"
    )
    moe_balance_scope: ChoiceEnum(list(BALANCE_SCOPES)) = option(
        "micro", "balance loss of each process's batch, or of the batches of all processes together"
    )
    moe_timeout: float = option(600, "seconds that a process waits for the others before the job ends")
    moe_compat: ChoiceEnum(list(COMPAT)) = option(
        "none", "behave as the published MH-MoE code, or as torchscale 0.3.0's X-MoE"
    )
    add_bos_token: bool = II("task.add_bos_token")
    tokens_per_sample: int = II("task.tokens_per_sample")
    max_target_positions: Optional[int] = II("task.max_target_positions")


def with_defaults(cfg: Any) -> Any:
    """Add options that an older checkpoint's configuration does not know yet, at their defaults."""
    if OmegaConf.is_config(cfg):
        with open_dict(cfg):
            for item in dataclasses.fields(MHMoELanguageModelConfig):
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
    warn_ineffective(cfg, {item.name: item.default for item in dataclasses.fields(MHMoELanguageModelConfig)})


def check_kinds(cfg: Any) -> None:
    """Raises ValueError if --no-weight-decay-on names something else than norm, bias and router."""
    try:
        parse_kinds(cfg.no_weight_decay_on)
    except ValueError as error:
        raise ValueError(f"--no-weight-decay-on {cfg.no_weight_decay_on}: {error}") from None


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
    compat, several = str(cfg.moe_compat), cfg.moe_top_k > 1
    published = compat == "published"  # whose language model never hands on normalisation, policy and priority
    normalize = cfg.moe_normalize_gate_prob_before_dropping and several and not published
    fields = dict(
        d_model=cfg.decoder_embed_dim,
        num_experts=cfg.moe_expert_count,
        ffn_dim=cfg.decoder_ffn_embed_dim if cfg.moe_ffn_dim is None else cfg.moe_ffn_dim,
        top_k=cfg.moe_top_k,
        heads=cfg.mhmoe_heads_number,
        head_layers=cfg.mhmoe_head_layers,
        merge_layers=cfg.mhmoe_merge_layers,
        activation=EXPERT_ACTIVATIONS[str(cfg.activation_fn)],
        bias=not cfg.no_bias,
        subln=cfg.subln,
        rms_norm=cfg.rms_norm,
        activation_dropout=cfg.activation_dropout,
        router="xmoe" if cfg.use_xmoe else str(cfg.moe_router),
        router_dim=cfg.moe_router_dim,
        router_temperature=cfg.moe_router_temperature,
        normalize_gates="before" if normalize else "none",
        second_policy=str(cfg.moe_second_expert_policy) if several and not published else "all",
        eval_capacity_fraction=cfg.moe_eval_capacity_token_fraction,
        batch_prioritized=cfg.moe_batch_prioritized_routing and not published,
        residual=cfg.mhmoe_residual,
        shared_expert_dim=cfg.moe_shared_expert_dim,
        backend=str(cfg.moe_expert_backend),
        recompute=cfg.moe_recompute,
        fused_activation=cfg.moe_fused_activation,
        exchange=str(cfg.moe_exchange),
        rank_capacity_factor=cfg.moe_rank_capacity_factor,
        balance_scope=str(cfg.moe_balance_scope),
        input_bits=cfg.input_bits,
        weight_bits=cfg.weight_bits,
    )
    if cfg.moe_capacity_factor:  # a compat mode has its own
        fields["capacity_factor"] = cfg.moe_capacity_factor
    try:
        return MoEConfig.with_compat(compat, **fields)
    except ValueError as error:
        raise ValueError(_name_option(str(error))) from None


def moe_group(cfg: Any) -> ExpertGroup:
    """The processes that share the experts of the model; collective, see `expert_group`.

    Raises:
        ValueError: --moe-expert-parallel-size does not fit.
    """
    try:
        group = expert_group(cfg.moe_expert_count, cfg.moe_expert_parallel_size)
    except ValueError as error:
        raise ValueError(f"--moe-expert-parallel-size: {error}") from None
    if layout_is_chosen():
        defaults = {item.name: item.default for item in dataclasses.fields(MHMoELanguageModelConfig)}
        warn_ineffective_in_group(cfg, group, defaults)
    return group


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


MOE_OPTIONS = {
    "d_model": "decoder_embed_dim",
    "num_experts": "moe_expert_count",
    "ffn_dim": "moe_ffn_dim",
    "top_k": "moe_top_k",
    "heads": "mhmoe_heads_number",
    "head_layers": "mhmoe_head_layers",
    "merge_layers": "mhmoe_merge_layers",
    "router_dim": "moe_router_dim",
    "router_temperature": "moe_router_temperature",
    "capacity_factor": "moe_capacity_factor",
    "eval_capacity_fraction": "moe_eval_capacity_token_fraction",
    "second_policy": "moe_second_expert_policy",
    "batch_prioritized": "moe_batch_prioritized_routing",
    "residual": "mhmoe_residual",
    "shared_expert_dim": "moe_shared_expert_dim",
    "backend": "moe_expert_backend",
    "recompute": "moe_recompute",
    "fused_activation": "moe_fused_activation",
    "exchange": "moe_exchange",
    "rank_capacity_factor": "moe_rank_capacity_factor",
    "balance_scope": "moe_balance_scope",
    "compat": "moe_compat",
}


def _name_option(message: str) -> str:
    """The layer's message about one of its fields, with the command line's name in front."""
    found = re.search(r"\b(\w+)=", message)
    name = MOE_OPTIONS.get(found.group(1)) if found else None
    return f"{flag(name)}: {message}" if name else message
