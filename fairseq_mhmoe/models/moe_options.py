"""The options of MoE layers that all models share, and the configuration of a layer that they mean."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Dict, Optional

from fairseq.dataclass import ChoiceEnum

from fairseq_mhmoe.models.option_checks import flag, warn_ineffective_in_group
from fairseq_mhmoe.models.run_options import RunOptions, option
from fairseq_mhmoe.moe.config import (
    BACKENDS,
    BALANCE_SCOPES,
    COMPAT,
    EXCHANGES,
    SECOND_POLICIES,
    MoEConfig,
)
from fairseq_mhmoe.moe.parallel import ExpertGroup, expert_group, layout_is_chosen
from fairseq_mhmoe.moe.parameter_kinds import parse_kinds
from fairseq_mhmoe.moe.router_base import ROUTERS

EXPERT_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "silu": "swiglu"}


@dataclass
class MoEOptions(RunOptions):
    """Everything that can be chosen about MoE layers."""

    moe_expert_count: int = option(0, "experts per MoE layer; 0: dense model")
    moe_freq: int = option(0, "every moe-freq-th block has an MoE layer; 0: dense model")
    moe_top_k: int = option(1, "experts chosen per (sub-)token")
    moe_top1_expert: bool = option(False, "one expert per (sub-)token; the same as --moe-top-k 1")
    moe_ffn_dim: Optional[int] = option(None, "inner width of an expert; default: that of the dense networks")
    mhmoe_heads_number: int = option(1, "sub-tokens per token: MH-MoE if more than 1")
    mhmoe_head_layers: Optional[int] = option(None, "linear layers before the split, 0-3; default: 1 in MH-MoE")
    mhmoe_merge_layers: Optional[int] = option(None, "linear layers after the merge, 0-3; default as above")
    mhmoe_residual: bool = option(False, "add each sub-token to its experts' output (v1 equation 6)")
    use_xmoe: bool = option(False, "the same as --moe-router xmoe")
    moe_router: str = option(
        "softmax", f"how gates are computed: {', '.join(ROUTERS)}, or a router that a module of your own registers"
    )
    moe_router_dim: Optional[int] = option(None, "width of the cosine routers' space; default 16, for MH-MoE 16/heads")
    moe_router_temperature: float = option(0.3, "where the xmoe router's learnable temperature starts")
    moe_router_args: str = option(
        "", 'arguments of a router of your own, a JSON object such as {"scale": 2} in quotes of the shell'
    )
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
    moe_compat: ChoiceEnum(list(COMPAT)) = option(
        "none", "behave as the published MH-MoE code, or as torchscale 0.3.0's X-MoE"
    )


def defaults_of(options: type) -> Dict[str, Any]:
    """Defaults of a class of options, by name."""
    return {item.name: item.default for item in dataclasses.fields(options)}


def check_kinds(cfg: Any) -> None:
    """Raises ValueError if --no-weight-decay-on names something else than norm, bias and router."""
    try:
        parse_kinds(cfg.no_weight_decay_on)
    except ValueError as error:
        raise ValueError(f"--no-weight-decay-on {cfg.no_weight_decay_on}: {error}") from None


def layer_config(cfg: Any, side: str, **kind: Any) -> MoEConfig:
    """The configuration of every MoE layer of a model that has some.

    Args:
        cfg: the model's options; also activation_fn and activation_dropout.
        side: "decoder" or "encoder", how the options of width and inner width begin.
        kind: bias, subln and other fields of MoEConfig that follow the rest of the model.
    Raises:
        ValueError: names the option, its value and what was expected.
    """
    compat, several = str(cfg.moe_compat), cfg.moe_top_k > 1
    published = compat == "published"  # whose language model never hands on normalisation, policy and priority
    normalize = cfg.moe_normalize_gate_prob_before_dropping and several and not published
    fields = dict(
        d_model=getattr(cfg, f"{side}_embed_dim"),
        num_experts=cfg.moe_expert_count,
        ffn_dim=getattr(cfg, f"{side}_ffn_embed_dim") if cfg.moe_ffn_dim is None else cfg.moe_ffn_dim,
        top_k=cfg.moe_top_k,
        heads=cfg.mhmoe_heads_number,
        head_layers=cfg.mhmoe_head_layers,
        merge_layers=cfg.mhmoe_merge_layers,
        activation=EXPERT_ACTIVATIONS[str(cfg.activation_fn)],
        activation_dropout=cfg.activation_dropout,
        router="xmoe" if cfg.use_xmoe else str(cfg.moe_router),
        router_dim=cfg.moe_router_dim,
        router_temperature=cfg.moe_router_temperature,
        router_args=cfg.moe_router_args,
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
        **kind,
    )
    if cfg.moe_capacity_factor:  # a compat mode has its own
        fields["capacity_factor"] = cfg.moe_capacity_factor
    try:
        return MoEConfig.with_compat(compat, **fields)
    except ValueError as error:
        raise ValueError(_name_option(str(error), side)) from None


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
        warn_ineffective_in_group(cfg, group, defaults_of(MoEOptions))
    return group


MOE_OPTIONS = {
    "num_experts": "moe_expert_count",
    "ffn_dim": "moe_ffn_dim",
    "top_k": "moe_top_k",
    "heads": "mhmoe_heads_number",
    "head_layers": "mhmoe_head_layers",
    "merge_layers": "mhmoe_merge_layers",
    "router": "moe_router",
    "router_args": "moe_router_args",
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


def _name_option(message: str, side: str) -> str:
    """The layer's message about one of its fields, with the command line's name in front."""
    found = re.search(r"\b(\w+)=", message)
    name = ({"d_model": f"{side}_embed_dim"} | MOE_OPTIONS).get(found.group(1)) if found else None
    return f"{flag(name)}: {message}" if name else message
