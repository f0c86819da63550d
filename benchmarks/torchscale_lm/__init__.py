"""torchscale 0.3.0's Decoder as a fairseq language model, `--user-dir benchmarks/torchscale_lm --arch torchscale_lm`.

Only to be measured beside ours, in one process: dense, MoE with top-2 gates, or X-MoE, with torchscale's own attention,
experts, gates and initialisation. Task and criterion are ours, so that everything around the decoder is the same.

Shapes: B batch, T length, V vocabulary, N experts.
"""

import copy
from dataclasses import dataclass

import torch
import torch.distributed as dist
from fairseq.dataclass import FairseqDataclass
from fairseq.models import FairseqIncrementalDecoder, FairseqLanguageModel, register_model
from omegaconf import II
from torchscale.architecture.config import DecoderConfig
from torchscale.architecture.decoder import Decoder
from torchscale.component.embedding import PositionalEmbedding, TextEmbedding

import fairseq_mhmoe  # noqa: F401  registers task and criterion
from fairseq_mhmoe.moe.stats import SCALARS


@dataclass
class TorchscaleConfig(FairseqDataclass):
    """Sizes of the decoder; names as in fairseq_mhmoe/models/options.py."""

    decoder_embed_dim: int = 256
    decoder_ffn_embed_dim: int = 1024
    decoder_layers: int = 8
    decoder_attention_heads: int = 4
    activation_fn: str = "gelu"
    share_decoder_input_output_embed: bool = False
    moe_freq: int = 0
    moe_expert_count: int = 0
    moe_ffn_dim: int = 1024
    use_xmoe: bool = False
    tokens_per_sample: int = II("task.tokens_per_sample")
    batch_size: int = II("dataset.batch_size")


class TorchscaleDecoder(Decoder, FairseqIncrementalDecoder):
    """torchscale's Decoder with experts of their own width, and with what our criterion expects beside the logits."""

    def build_decoder_layer(self, args, depth, is_moe_layer=False, is_encoder_decoder=False):
        """torchscale gives experts the width of the dense layers; here MoE layers see another one."""
        if is_moe_layer:
            args = copy.copy(args)
            args.decoder_ffn_embed_dim = args.moe_ffn_dim
        return super().build_decoder_layer(args, depth, is_moe_layer, is_encoder_decoder)

    def forward(self, prev_output_tokens, **unused):
        """[B, T] -> logits [B, T, V] and the balance losses; z-losses and statistics are not kept and stay 0."""
        logits, extra = super().forward(prev_output_tokens)
        losses = {i: l_aux for i, l_aux in enumerate(extra["l_aux"]) if l_aux is not None}
        nothing = logits.new_zeros(())
        statistics = logits.new_zeros(self.args.moe_expert_count + len(SCALARS))
        report = {
            "attn": [None],
            "l_aux": list(losses.values()),
            "z_loss": [nothing] * len(losses),
            "moe_stats": [statistics] * len(losses),
            "moe_layers": list(losses),
        }
        return logits, report

    def max_positions(self):
        """Longest sequence, in tokens."""
        return self.args.max_target_positions


@register_model("torchscale_lm", dataclass=TorchscaleConfig)
class TorchscaleLanguageModel(FairseqLanguageModel):
    """The decoder as fairseq's programs expect a language model."""

    @classmethod
    def build_model(cls, cfg, task):
        """The model for a task's dictionary."""
        vocabulary = task.source_dictionary
        args = DecoderConfig(
            vocab_size=len(vocabulary),
            max_target_positions=cfg.tokens_per_sample,
            decoder_normalize_before=True,
            subln=False,
            no_scale_embedding=False,
            moe_second_expert_policy="all",  # X-MoE sets its own
            moe_normalize_gate_prob_before_dropping=True,
            **{name: getattr(cfg, name) for name in SHARED},
        )
        args.moe_ffn_dim, args.batch_size = cfg.moe_ffn_dim, cfg.batch_size
        if cfg.moe_freq:
            prepare_moe()
        words = TextEmbedding(len(vocabulary), cfg.decoder_embed_dim, padding_idx=vocabulary.pad())
        positions = PositionalEmbedding(cfg.tokens_per_sample + 2, cfg.decoder_embed_dim)
        torch.nn.init.normal_(positions.weight, std=cfg.decoder_embed_dim**-0.5)  # theirs is 1, which trains badly
        return cls(TorchscaleDecoder(args, words, positions, dictionary=vocabulary))


SHARED = (
    "decoder_embed_dim",
    "decoder_ffn_embed_dim",
    "decoder_layers",
    "decoder_attention_heads",
    "activation_fn",
    "share_decoder_input_output_embed",
    "moe_freq",
    "moe_expert_count",
    "use_xmoe",
)


def prepare_moe():
    """What torchscale's MoE layers need here: a process group, and a torch.histc that takes integers as it once did."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    histogram = torch.histc
    if not getattr(histogram, "takes_integers", False):

        def histc(values, **bins):
            return histogram(values.float(), **bins)

        histc.takes_integers = True
        torch.histc = histc
