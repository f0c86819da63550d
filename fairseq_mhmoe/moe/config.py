"""Every number of one MoE layer, validated (D model width, H heads, N experts, K choices, F expert inner width)."""

from dataclasses import dataclass
from typing import Any, Dict, Optional

from .bitlinear import FULL_BITS, INPUT_BITS, UNQUANTIZED, WEIGHT_BITS, Quantization
from .router_base import ROUTERS, router_arguments, router_names

ACTIVATIONS = ("relu", "gelu", "swiglu")
NORMALIZE = ("none", "before", "after")
SECOND_POLICIES = ("all", "random", "sampling")
PADDING = ("masked", "routed", "counted")
BACKENDS = ("auto", "loop", "grouped_mm", "bmm")
EXCHANGES = ("counts", "capacity")
BALANCE_SCOPES = ("micro", "global")
COMPAT = ("none", "published", "torchscale")
TORCHSCALE_ROUTER_DIM = 16


@dataclass(frozen=True)
class MoEConfig:
    """Sizes and rules of a MoE layer; `heads=1` is plain SMoE (or X-MoE, by router), `heads>1` is MH-MoE.

    Raises:
        ValueError: a value, or a combination of values, that no layer can have.
    """

    d_model: int  # D, width of a token
    num_experts: int  # N
    ffn_dim: int  # F, inner width of an expert
    top_k: int = 1  # K, experts chosen per sub-token
    heads: int = 1  # H, sub-tokens per token
    head_layers: Optional[int] = None  # linear layers before the split; None = 1 for MH-MoE, 0 for H = 1
    merge_layers: Optional[int] = None  # linear layers after the merge; None as above
    activation: str = "gelu"  # relu and gelu have two matrices, swiglu has three
    bias: bool = True  # biases of the experts; head and merge layers always have them
    subln: bool = False  # norm over F before an expert's last matrix
    rms_norm: bool = False  # kind of that norm: RMSNorm instead of LayerNorm
    activation_dropout: float = 0.0  # on the expert's hidden vector
    router: str = "softmax"  # one of the package's, or registered with `register_router`
    router_dim: Optional[int] = None  # width of the cosine routers' space
    router_temperature: float = 0.3  # where the X-MoE router's learnable temperature starts
    router_args: str = ""  # JSON object of arguments for a registered router
    normalize_gates: str = "none"  # divide a sub-token's K gates by their sum, before or after dropping
    second_policy: str = "all"  # whether choices 2..K are taken always, at random by gate, or sampled
    sample_in_eval: bool = False  # the random policies also in evaluation (torchscale)
    capacity_factor: float = 0.0  # 0 = dropless; else an expert takes K * floor(factor * ceil(S / N)) choices
    eval_capacity_fraction: float = -1.0  # > 0: in evaluation an expert takes ceil(fraction * S) choices
    batch_prioritized: bool = False  # queue by largest gate instead of by token order
    padding: str = "masked"  # pads are masked out, routed as tokens, or only counted in means and capacity
    residual: bool = False  # add the sub-token to its experts' output (v1 eq. 6)
    shared_expert_dim: int = 0  # inner width of an expert that every token passes (v2); 0 = none
    backend: str = "auto"  # how the grouped matrix products are computed
    recompute: bool = False  # compute the experts' pre-activations again in the backward pass instead of keeping them
    fused_activation: bool = False  # SwiGLU as one kernel made by torch.compile
    exchange: str = "counts"  # ranks send as many rows as there are, or a fixed number of slots per expert
    rank_capacity_factor: float = 0.0  # 0 = no bound; else a rank sends another ceil(factor * S * K / P) rows at most
    balance_scope: str = "micro"  # load and gates of the balance loss over one rank's batch, or over all ranks'
    input_bits: int = FULL_BITS  # 8: inputs of the experts' matrices are quantised (BitNet b1.58)
    weight_bits: int = FULL_BITS  # 1: the experts' matrices are ternary (BitNet b1.58)
    quantize_projections: bool = True  # whether that holds for head and merge layers, as in v2, or for experts alone

    def __post_init__(self) -> None:
        for name in ("d_model", "num_experts", "ffn_dim", "top_k", "heads"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a positive number")
        for name, choices in (
            ("activation", ACTIVATIONS),
            ("router", router_names()),
            ("normalize_gates", NORMALIZE),
            ("second_policy", SECOND_POLICIES),
            ("padding", PADDING),
            ("backend", BACKENDS),
            ("exchange", EXCHANGES),
            ("balance_scope", BALANCE_SCOPES),
        ):
            _require(getattr(self, name) in choices, name, getattr(self, name), "one of " + ", ".join(choices))
        _require(self.d_model % self.heads == 0, "heads", self.heads, f"a divisor of the model width {self.d_model}")
        _require(
            self.top_k <= self.num_experts, "top_k", self.top_k, f"at most the number of experts, {self.num_experts}"
        )
        for name in ("head_layers", "merge_layers"):
            value = getattr(self, name)
            _require(value is None or 0 <= value <= 3, name, value, "0 to 3 linear layers")
        _require(self.router_dim is None or self.router_dim >= 1, "router_dim", self.router_dim, "a positive number")
        _require(self.router_temperature > 0, "router_temperature", self.router_temperature, "a positive number")
        try:
            router_arguments(self.router, self.router_args)
        except ValueError as error:
            _require(False, "router_args", self.router_args, str(error).removeprefix("expected "))
        _require(self.capacity_factor >= 0, "capacity_factor", self.capacity_factor, "0 (dropless) or more")
        _require(self.rank_capacity_factor >= 0, "rank_capacity_factor", self.rank_capacity_factor, "0 or more")
        _require(
            self.exchange == "counts" or self.capacity_factor > 0,
            "exchange",
            self.exchange,
            "'counts' without a capacity_factor, which says how many slots there are",
        )
        _require(self.eval_capacity_fraction <= 1, "eval_capacity_fraction", self.eval_capacity_fraction, "at most 1")
        _require(0 <= self.activation_dropout < 1, "activation_dropout", self.activation_dropout, "in [0, 1)")
        for name, bits in (("input_bits", INPUT_BITS), ("weight_bits", WEIGHT_BITS)):
            expected = f"{bits} (BitNet b1.58) or {FULL_BITS} (not quantised)"
            _require(getattr(self, name) in (bits, FULL_BITS), name, getattr(self, name), expected)
        _require(self.shared_expert_dim >= 0, "shared_expert_dim", self.shared_expert_dim, "0 (none) or a width")
        _require(
            self.second_policy == "all" or self.top_k > 1,
            "second_policy",
            self.second_policy,
            "'all' with top_k 1, where there is no second expert",
        )

    @property
    def d_sub(self) -> int:
        """Width of a sub-token, D / H."""
        return self.d_model // self.heads

    @property
    def num_head_layers(self) -> int:
        """Linear layers before the split, with the default resolved."""
        return self._projection_layers(self.head_layers)

    @property
    def num_merge_layers(self) -> int:
        """Linear layers after the merge, with the default resolved."""
        return self._projection_layers(self.merge_layers)

    @property
    def projected_dim(self) -> int:
        """Width in which a cosine router compares: 16 for X-MoE, 16 / H for MH-MoE (v1 table 9), 4 at least."""
        if self.router_dim is not None:
            return self.router_dim
        return TORCHSCALE_ROUTER_DIM if self.router == "torchscale-cosine" else max(4, round(16 / self.heads))

    @property
    def quantization(self) -> Quantization:
        """Of the experts."""
        return Quantization.of_bits(self.input_bits, self.weight_bits)

    @property
    def projection_quantization(self) -> Quantization:
        """Of head and merge layers."""
        return self.quantization if self.quantize_projections else UNQUANTIZED

    def _projection_layers(self, layers: Optional[int]) -> int:
        return (1 if self.heads > 1 else 0) if layers is None else layers

    @classmethod
    def with_compat(cls, compat: str, **fields: Any) -> "MoEConfig":
        """The configuration under another code base's rules.

        Args:
            compat: "none" (ours), "published" (the MH-MoE research code: capacity factor 1, pads routed, its cosine
                router, head and merge layers never quantised) or "torchscale" (torchscale 0.3.0's X-MoE: its
                capacities, gates renormalised after dropping unless before, pads masked but counted).
            fields: as for the class; "xmoe" names the code base's own cosine router.
        Raises:
            ValueError: a field contradicts the rules.
        """
        _require(compat in COMPAT, "compat", compat, "one of " + ", ".join(COMPAT))
        if compat == "none":
            return cls(**fields)
        fields = dict(fields)
        router = fields.get("router", "softmax")
        _require(router in ROUTERS, "router", router, f"one that compat {compat!r} knows, " + ", ".join(ROUTERS))
        if router == "xmoe":
            fields["router"] = "torchscale-cosine"
        rules: Dict[str, Any] = {"residual": False, "padding": "routed"}
        if compat == "published":
            rules.update(capacity_factor=1.0, second_policy="all", quantize_projections=False)
        else:
            top_k = fields.get("top_k", 1)
            _require(top_k <= 2, "top_k", top_k, "1 or 2 under compat 'torchscale', whose gates know no more")
            rules.update(padding="counted", sample_in_eval=True)
            if top_k == 2:
                rules["capacity_factor"] = 1.0
                if fields.get("normalize_gates", "none") == "none":
                    fields["normalize_gates"] = "after"
            else:
                fields.setdefault("capacity_factor", 1.0)
        for name, value in rules.items():
            default = cls.__dataclass_fields__[name].default
            _require(
                fields.get(name, default) in (default, value),
                name,
                fields.get(name),
                f"{value!r}, which compat {compat!r} implies; leave it out or choose compat 'none'",
            )
            fields[name] = value
        return cls(**fields)


def _require(ok: bool, name: str, value: Any, expected: str) -> None:
    if not ok:
        raise ValueError(f"MoE layer: {name}={value!r}; expected {expected}")
