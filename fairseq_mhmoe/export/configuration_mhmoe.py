"""Configuration of MH-MoE language models for transformers: every number that the forward pass depends on."""

from transformers import PreTrainedConfig

CHOICES = {
    "hidden_act": ("relu", "gelu", "silu"),
    "added_positions": ("none", "sinusoidal", "learned"),
    "moe_router": ("softmax", "xmoe", "torchscale-cosine"),
    "moe_normalize_gates": ("none", "before", "after"),
    "moe_padding": ("masked", "routed", "counted"),
    "input_bits": (8, 32),
    "weight_bits": (1, 32),
}


class MHMoEConfig(PreTrainedConfig):
    """Sizes and rules of a dense, sparse (SMoE), X-MoE or MH-MoE decoder.

    Args:
        vocab_size, output_size: symbols of the input and of the output (None: as many).
        hidden_size, intermediate_size, num_hidden_layers: width, inner width of dense networks, blocks.
        num_attention_heads, num_key_value_heads: the latter shared by groups of the former (None: as many).
        max_position_embeddings: longest sequence; a longer one is an error.
        hidden_act: relu, gelu, or silu, which means SwiGLU (three matrices).
        use_bias, rms_norm, subln: biases; RMSNorm instead of LayerNorm; norms before the last matrices.
        pre_norm, deepnorm: pre-norm blocks; residuals scaled by (2 layers)^(1/4).
        rotary, added_positions: rotary positions in attention; positions added to the embeddings.
        scale_embedding, norm_embedding: embeddings times sqrt(width); a norm after them.
        input_bits, weight_bits: 8 and 1 for BitNet b1.58, 32 for none.
        moe_freq: every so-many-th block has experts; 0: dense model.
        num_experts, num_experts_per_tok, moe_intermediate_size: experts, choices of a (sub-)token, inner width.
        moe_heads: sub-tokens of a token. moe_head_layers, moe_merge_layers: linear layers before and after.
        moe_router, moe_router_dim: kind, and the width of the cosine routers' space.
        moe_normalize_gates: gates divided by their sum, before or after choices are dropped.
        moe_residual: sub-tokens are added to their experts' output.
        shared_expert_intermediate_size: of an expert that every token passes; 0: none.
        moe_capacity_factor, moe_eval_capacity_fraction: how many choices an expert takes; 0 and negative: all.
        moe_batch_prioritized: large gates are served first. moe_padding: what pads are to the router.
        moe_quantize_projections: whether BitNet holds for head and merge layers.
        fairseq: options of the original model that change training only; `mhmoe-checkpoint import` needs them.
    """

    model_type = "mhmoe_lm"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(
        self,
        vocab_size=32000,
        output_size=None,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=None,
        max_position_embeddings=1024,
        hidden_act="silu",
        use_bias=False,
        rms_norm=True,
        subln=False,
        pre_norm=True,
        deepnorm=False,
        rotary=True,
        added_positions="none",
        scale_embedding=False,
        norm_embedding=False,
        input_bits=32,
        weight_bits=32,
        moe_freq=0,
        num_experts=0,
        num_experts_per_tok=1,
        moe_intermediate_size=0,
        moe_heads=1,
        moe_head_layers=0,
        moe_merge_layers=0,
        moe_router="softmax",
        moe_router_dim=16,
        moe_normalize_gates="none",
        moe_residual=False,
        shared_expert_intermediate_size=0,
        moe_capacity_factor=0.0,
        moe_eval_capacity_fraction=-1.0,
        moe_batch_prioritized=False,
        moe_padding="masked",
        moe_quantize_projections=True,
        fairseq=None,
        use_cache=True,
        initializer_range=0.02,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=2,
        tie_word_embeddings=True,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.output_size = vocab_size if output_size is None else output_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads if num_key_value_heads is None else num_key_value_heads
        self.max_position_embeddings = max_position_embeddings
        self.hidden_act = hidden_act
        self.use_bias = use_bias
        self.rms_norm = rms_norm
        self.subln = subln
        self.pre_norm = pre_norm
        self.deepnorm = deepnorm
        self.rotary = rotary
        self.added_positions = added_positions
        self.scale_embedding = scale_embedding
        self.norm_embedding = norm_embedding
        self.input_bits = input_bits
        self.weight_bits = weight_bits
        self.moe_freq = moe_freq
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.moe_intermediate_size = moe_intermediate_size
        self.moe_heads = moe_heads
        self.moe_head_layers = moe_head_layers
        self.moe_merge_layers = moe_merge_layers
        self.moe_router = moe_router
        self.moe_router_dim = moe_router_dim
        self.moe_normalize_gates = moe_normalize_gates
        self.moe_residual = moe_residual
        self.shared_expert_intermediate_size = shared_expert_intermediate_size
        self.moe_capacity_factor = moe_capacity_factor
        self.moe_eval_capacity_fraction = moe_eval_capacity_fraction
        self.moe_batch_prioritized = moe_batch_prioritized
        self.moe_padding = moe_padding
        self.moe_quantize_projections = moe_quantize_projections
        self.fairseq = fairseq
        self.use_cache = use_cache
        self.initializer_range = initializer_range
        self._check()
        super().__init__(
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )

    def _check(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                expected = ", ".join(map(str, choices))
                raise ValueError(f"config.json: {name} is {getattr(self, name)!r}; expected one of {expected}")
        if self.hidden_size % self.num_attention_heads or self.hidden_size % self.moe_heads:
            raise ValueError(
                f"config.json: hidden_size {self.hidden_size} is no multiple of num_attention_heads "
                f"{self.num_attention_heads} and moe_heads {self.moe_heads}"
            )
        if self.moe_freq and self.num_experts < self.num_experts_per_tok:
            raise ValueError(
                f"config.json: num_experts {self.num_experts}; expected num_experts_per_tok "
                f"{self.num_experts_per_tok} or more"
            )

    def has_experts(self, block):
        """Whether block number `block`, from 0, has experts."""
        return self.moe_freq > 0 and (block + 1) % self.moe_freq == 0
