"""What the server of forks has in memory (forks.py): all that fairseq's programs import, and what they learn once."""

import gc

import pytest  # noqa: F401
import torch._dynamo  # noqa: F401  (every optimizer imports it)
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import eval_lm, generate, hydra_train, interactive, train, validate  # noqa: F401
from torch.utils import tensorboard  # noqa: F401

import fairseq_mhmoe
import fairseq_mhmoe.models.multimodal_encoder  # noqa: F401  (what multimodal models import when they are built)

from . import composing

# hydra's parsers keep what they have found out about their grammars, and composing.py what groups bring along
composing.remember()
words = ["data", "--task", "language_modeling", "--path", "checkpoint.pt"]
convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_validation_parser(), words))
for kind in (
    "--arch mhmoe_lm_tiny --task gpt --criterion moe_cross_entropy",
    "--arch mhmoe_multimodal_tiny --task masked_multimodal --criterion masked_multimodal",
    "--arch mhmoe_multimodal_tiny --task vqa --criterion vqa",
):
    words = ["data", *kind.split(), "--optimizer", "adam"]
    convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))

# so that collecting garbage in a fork neither walks over all this nor copies its pages
gc.collect()
gc.freeze()
