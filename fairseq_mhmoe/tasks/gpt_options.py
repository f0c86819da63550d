"""Options of task `gpt`, and which of them go together."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from fairseq.tasks.language_modeling import LanguageModelingConfig
from omegaconf import II

from data_prep.tokenizers.ranks import CL100K
from fairseq_mhmoe.data.mixture import parse_weights


@dataclass
class GPTConfig(LanguageModelingConfig):
    """Options of the task, beside those of language_modeling."""

    spm_model: Optional[str] = field(
        default=None,
        metadata={
            "help": "SentencePiece model for text in and out of generation (default: spm.model in the data folder)"
        },
    )
    tiktoken_model: Optional[str] = field(
        default=None,
        metadata={
            "help": "the same with tiktoken: a file of ranks, or cl100k_base (default: tokenizer.tiktoken in the data "
            "folder)"
        },
    )
    dict_path: Optional[str] = field(
        default=None, metadata={"help": "dictionary of the data (default: dict.txt in the first data folder)"}
    )
    absolute_path: bool = field(
        default=False, metadata={"help": "let the data folder's manifest.json name sources by absolute paths"}
    )
    sources: Optional[str] = field(
        default=None, metadata={"help": "comma-separated sources of the data folder to read (default: all)"}
    )
    source_weights: Optional[str] = field(
        default=None,
        metadata={
            "help": "share of each source in training as name=weight,... (default: the manifest's weights; without "
            "any, every token once per epoch)"
        },
    )
    sampling_alpha: float = field(
        default=1.0,
        metadata={
            "help": "train on sources in proportion to p^ALPHA, p their shares of the tokens (XLM 0.7, XLM-R 0.3)"
        },
    )
    pad_to_max_len: bool = field(
        default=False, metadata={"help": "pad every sample to --tokens-per-sample, so that all batches have one shape"}
    )
    batch_read_ahead: Optional[int] = field(
        default=None, metadata={"help": "batches that are prepared ahead (default: --data-buffer-size, at most 20)"}
    )
    train_subset: str = II("dataset.train_subset")


def check_options(args) -> None:
    """ValueError for an option, or two together, that can't be."""
    if args.tokens_per_sample < 1:
        raise ValueError(
            f"--tokens-per-sample is {args.tokens_per_sample}, less --context-window where there is one; "
            "expected 1 or more"
        )
    if args.max_target_positions is not None and args.tokens_per_sample > args.max_target_positions:
        raise ValueError(
            f"--tokens-per-sample {args.tokens_per_sample} is more than --max-target-positions "
            f"{args.max_target_positions}; lower the one or raise the other"
        )
    if args.batch_read_ahead is not None and args.batch_read_ahead < 0:
        raise ValueError(f"--batch-read-ahead is {args.batch_read_ahead}; expected 0 or more")
    if args.spm_model is not None and not Path(args.spm_model).is_file():
        raise ValueError(f"--spm-model: no file {args.spm_model}")
    if args.tiktoken_model not in (None, CL100K) and not Path(args.tiktoken_model).is_file():
        raise ValueError(f"--tiktoken-model: no file {args.tiktoken_model}, and it is not {CL100K}")
    if args.spm_model is not None and args.tiktoken_model is not None:
        raise ValueError("--spm-model and --tiktoken-model: data have one tokenizer; leave one of them out")
    if not 0 <= args.sampling_alpha < math.inf:
        raise ValueError(f"--sampling-alpha is {args.sampling_alpha}; expected 0 (all sources alike) or more")
    if args.source_weights is not None:
        parse_weights(args.source_weights)
        if args.sampling_alpha != 1:
            raise ValueError(
                f"--source-weights and --sampling-alpha {args.sampling_alpha} both say how often a source is read; "
                "leave one of them out"
            )
