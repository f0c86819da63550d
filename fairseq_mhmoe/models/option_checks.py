"""Which options exclude each other, and which have no effect beside others."""

import logging
import math
from itertools import chain
from typing import Any, Dict, Iterable, Iterator, Tuple

from fairseq_mhmoe.moe.bitlinear import FULL_BITS, INPUT_BITS, WEIGHT_BITS
from fairseq_mhmoe.moe.router_base import ROUTERS, own_router, router_names

logger = logging.getLogger(__name__)

# What BitNet b1.58 is made of: bits, and the one method for them.
QUANTIZED = {"input": (INPUT_BITS, "absmax_per_token"), "weight": (WEIGHT_BITS, "absmean")}
_warned = set()


def flag(name: str) -> str:
    """The option as it is written on the command line."""
    return "--" + name.replace("_", "-")


def check_options(cfg: Any) -> None:
    """Refuse the first combination that no model can have.

    Raises:
        ValueError: names the option, its value, and what to do.
    """
    refuse(cfg, chain(_numbers(cfg), _body(cfg), experts(cfg, "decoder")))


Check = Tuple[bool, str, str]  # whether it is wrong, the option, the remedy


def refuse(cfg: Any, checks: Iterable[Check]) -> None:
    """Raises ValueError for the first thing that is wrong."""
    for wrong, name, remedy in checks:
        if wrong:
            raise ValueError(f"{flag(name)} {getattr(cfg, name)}: {remedy}")


def _numbers(cfg: Any) -> Iterator[Check]:
    yield from numbers(cfg, "decoder")
    for name in ("n_kv_heads", "max_target_positions"):
        value = getattr(cfg, name)
        yield isinstance(value, int) and value < 1, name, "expected a positive number, or leave it out"
    yield cfg.scale_length < 0, "scale_length", "expected 0 (off) or a positive number"
    for side, (bits, method) in QUANTIZED.items():
        remedy = f"expected {bits} ({method}) or {FULL_BITS} (not quantised)"
        yield getattr(cfg, f"{side}_bits") not in (bits, FULL_BITS), f"{side}_bits", remedy
        chosen = getattr(cfg, f"{side}_quant_method")
        yield chosen not in (None, method), f"{side}_quant_method", f"expected {method}, or leave it out"


def numbers(cfg: Any, side: str) -> Iterator[Check]:
    """Sizes, counts and probabilities of any model; side: "decoder" or "encoder", how its sizes are named."""
    for name in ("embed_dim", "ffn_embed_dim", "layers", "attention_heads"):
        yield getattr(cfg, f"{side}_{name}") < 1, f"{side}_{name}", "expected a positive number"
    for name in ("moe_ffn_dim", "moe_router_dim", "moe_expert_parallel_size"):
        value = getattr(cfg, name)
        yield isinstance(value, int) and value < 1, name, "expected a positive number, or leave it out"
    for name in ("moe_freq", "moe_expert_count", "moe_shared_expert_dim", "moe_capacity_factor"):
        yield getattr(cfg, name) < 0, name, "expected 0 (off) or a positive number"
    yield not cfg.moe_timeout > 0, "moe_timeout", "expected a positive number of seconds"
    peak = cfg.peak_tflops
    yield peak is not None and not 0 < peak < math.inf, "peak_tflops", "expected TFLOP/s of one device, above 0"
    for name in ("max_nonfinite", "loss_spike_updates"):
        yield getattr(cfg, name) < 1, name, "expected 1 or more updates"
    yield cfg.loss_spike_window < 8, "loss_spike_window", "expected 8 updates or more: a median needs some losses"
    window = cfg.loss_spike_window
    yield cfg.loss_spike_updates >= window, "loss_spike_updates", f"expected less than --loss-spike-window {window}"
    yield not cfg.loss_spike_threshold > 0, "loss_spike_threshold", "expected a positive number, for example 6"
    yield cfg.max_rewinds < 0, "max_rewinds", "expected 0 or more"
    for name in ("moe_top_k", "mhmoe_heads_number"):
        yield getattr(cfg, name) < 1, name, "expected 1 or more"
    for name in ("dropout", "attention_dropout", "activation_dropout"):
        yield not 0 <= getattr(cfg, name) < 1, name, "expected a probability in [0, 1)"


def _body(cfg: Any) -> Iterator[Check]:
    width, heads = cfg.decoder_embed_dim, cfg.decoder_attention_heads
    positions_added = not cfg.no_token_positional_embeddings
    yield width % heads != 0, "decoder_attention_heads", f"expected a divisor of --decoder-embed-dim {width}"
    kv_heads = cfg.n_kv_heads or heads
    yield heads % kv_heads != 0, "n_kv_heads", f"expected a divisor of --decoder-attention-heads {heads}"
    yield (
        cfg.rotary_embed and width // heads % 2 != 0,
        "rotary_embed",
        f"rotary positions turn pairs, and a head is {width // heads} wide; "
        "choose --decoder-attention-heads so that --decoder-embed-dim / heads is even",
    )
    yield (
        positions_added and not cfg.decoder_learned_pos and width < 4,
        "decoder_embed_dim",
        "sinusoidal positions need a width of 4 or more; add --decoder-learned-pos or --no-token-positional-embeddings",
    )
    yield (
        cfg.deepnorm and cfg.subln,
        "deepnorm",
        "DeepNorm is post-norm, SubLN pre-norm; leave out --deepnorm or --subln",
    )
    yield (
        cfg.deepnorm and cfg.decoder_normalize_before,
        "deepnorm",
        "DeepNorm scales the residuals of post-norm blocks; leave out --decoder-normalize-before or --deepnorm",
    )
    yield (
        cfg.subln and not cfg.decoder_normalize_before,
        "subln",
        "SubLN extends pre-norm blocks; add --decoder-normalize-before or leave out --subln",
    )


def experts(cfg: Any, side: str) -> Iterator[Check]:
    """What is asked of MoE layers; side as for `numbers`."""
    layers, width = getattr(cfg, f"{side}_layers"), getattr(cfg, f"{side}_embed_dim")
    experts, freq = cfg.moe_expert_count, cfg.moe_freq
    yield freq > layers, "moe_freq", f"no block would have experts; expected at most --{side}-layers {layers}"
    yield freq > 0 and experts == 0, "moe_freq", "add --moe-expert-count, the number of experts per MoE layer"
    yield experts > 0 and freq == 0, "moe_expert_count", "add --moe-freq, which blocks get them (2: every second)"
    router, compat = str(cfg.moe_router), str(cfg.moe_compat)
    yield (
        router not in router_names(),
        "moe_router",
        f"expected one of {', '.join(router_names())}; a router of your own is there when --user-dir names the module "
        "that registers it (docs/custom-router.md)",
    )
    if freq == 0:
        return
    yield (
        compat != "none" and router not in ROUTERS,
        "moe_router",
        f"--moe-compat {compat} knows {', '.join(ROUTERS)}; leave --moe-compat out, or choose one of them",
    )
    yield cfg.moe_top_k > experts, "moe_top_k", f"expected at most --moe-expert-count {experts}"
    yield (
        cfg.moe_top1_expert and cfg.moe_top_k != 1,
        "moe_top1_expert",
        f"contradicts --moe-top-k {cfg.moe_top_k}, given or from the architecture; leave it out, or add --moe-top-k 1",
    )
    yield (
        width % cfg.mhmoe_heads_number != 0,
        "mhmoe_heads_number",
        f"expected a divisor of --{side}-embed-dim {width}",
    )
    for name in ("mhmoe_head_layers", "mhmoe_merge_layers"):
        value = getattr(cfg, name)
        yield value is not None and not 0 <= value <= 3, name, "expected 0, 1, 2 or 3 linear layers"
    yield (
        cfg.use_xmoe and router not in ("softmax", "xmoe"),
        "moe_router",
        "contradicts --use-xmoe, which means xmoe; leave out one of them",
    )


def warn_ineffective(cfg: Any, defaults: Dict[str, Any]) -> None:
    """Log a warning for every option that differs from its default and changes nothing here; once per process."""
    warn(cfg, defaults, _ineffective(cfg, defaults))


def warn_ineffective_in_group(cfg: Any, group: Any, defaults: Dict[str, Any]) -> None:
    """The same for options that concern several processes, when a model's group (`ExpertGroup`) is known."""
    warn(cfg, defaults, _ineffective_in_group(group))


def warn(cfg: Any, defaults: Dict[str, Any], ineffective: Iterable[Tuple[str, str]]) -> None:
    """Log those of the ineffective options (name, reason) that are not at their defaults; once per process."""
    for name, reason in ineffective:
        message = f"{flag(name)} has no effect: {reason}"
        if getattr(cfg, name) != defaults[name] and message not in _warned:
            _warned.add(message)
            logger.warning(message)


def _ineffective(cfg: Any, names: Iterable[str]) -> Iterator[Tuple[str, str]]:
    yield "flash_attention", "torch chooses the fastest attention kernel by itself"
    yield "scale_length", "attention scores are not scaled by length"
    for side in QUANTIZED:
        if getattr(cfg, f"{side}_bits") == FULL_BITS:
            yield f"{side}_quant_method", f"nothing is quantised at {FULL_BITS} bits"
    if cfg.no_token_positional_embeddings:
        yield "decoder_learned_pos", "--no-token-positional-embeddings leaves no positions to learn"
    yield from ineffective_moe(cfg, names, "decoder")


def ineffective_moe(cfg: Any, names: Iterable[str], side: str) -> Iterator[Tuple[str, str]]:
    """Options of MoE layers, among names, without effect, and why; side as for `numbers`."""
    if cfg.moe_freq == 0:
        for name in names:
            if name == "moe_timeout":  # holds for every model
                continue
            if name.startswith(("moe_", "mhmoe_")) or name == "use_xmoe":
                yield name, "the model is dense; --moe-freq and --moe-expert-count add experts"
    else:
        yield from _ineffective_beside_experts(cfg, side)


def _ineffective_in_group(group: Any) -> Iterator[Tuple[str, str]]:
    if group.size == 1:
        yield "moe_exchange", "every process holds all experts, nothing is exchanged"
        yield "moe_rank_capacity_factor", "every process holds all experts, nothing is sent to others"
    if group.world_size == 1:
        yield "moe_balance_scope", "there is one process"


def _ineffective_beside_experts(cfg: Any, side: str) -> Iterator[Tuple[str, str]]:
    yield "moe_gating_use_fp32", "the router always computes in float32"
    router, compat = str(cfg.moe_router), str(cfg.moe_compat)
    if cfg.use_xmoe or (router == "xmoe" and compat != "none"):
        router = "xmoe" if compat == "none" else "torchscale-cosine"
    if router == "softmax":
        yield "moe_router_dim", "the softmax router compares at full width"
    if router != "xmoe" and own_router(router) is None:  # which may read it
        yield "moe_router_temperature", f"the {router} router has no temperature"
    if str(cfg.activation_fn) != "silu":
        yield "moe_fused_activation", f"{cfg.activation_fn} is one kernel already; --activation-fn silu is several"
    if cfg.moe_freq == 1 and cfg.moe_ffn_dim is not None:
        yield f"{side}_ffn_embed_dim", "every block has experts, whose width is --moe-ffn-dim"
    if cfg.moe_top_k == 1:
        yield "moe_top1_expert", "--moe-top-k is 1 already"
        yield "moe_second_expert_policy", "--moe-top-k 1 chooses no second expert"
        yield "moe_normalize_gate_prob_before_dropping", "--moe-top-k 1 has one gate, which stays a probability"
    inert = ["moe_batch_prioritized_routing"]
    if cfg.moe_top_k > 1:
        inert += ["moe_second_expert_policy", "moe_normalize_gate_prob_before_dropping"]
    if compat == "published":
        for name in inert:
            yield name, "the published language model does not hand it to its layers (--moe-compat published)"
    fraction = cfg.moe_eval_capacity_token_fraction
    if fraction == 0:
        yield "moe_eval_capacity_token_fraction", "0 means, as a negative number does, the capacity of training"
    if compat == "none" and not cfg.moe_capacity_factor and not 0 < fraction < 1:
        yield "moe_batch_prioritized_routing", "without --moe-capacity-factor nothing waits or is dropped"
        yield "moe_eval_capacity_token_fraction", "experts take all tokens anyway; a share below 1 would limit them"
