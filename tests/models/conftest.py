"""A small dictionary, options with a table's or a test's changes, and models built from them."""

import argparse
from types import SimpleNamespace

import pytest
import torch
from fairseq.data import Dictionary

import fairseq_mhmoe  # noqa: F401  registers what the tests build
from fairseq_mhmoe.models import option_checks
from fairseq_mhmoe.models.architectures import ARCHITECTURES, apply_architecture
from fairseq_mhmoe.models.language_model import MHMoELanguageModel
from fairseq_mhmoe.models.options import MHMoELanguageModelConfig

VOCABULARY = 101
SMALL = dict(
    decoder_embed_dim=32,
    decoder_layers=2,
    decoder_attention_heads=4,
    decoder_ffn_embed_dim=48,
    decoder_normalize_before=True,
    tokens_per_sample=32,
    max_target_positions=None,
    add_bos_token=False,
)


@pytest.fixture(scope="session")
def dictionary():
    """97 words beside the four special symbols."""
    words = Dictionary()
    for i in range(VOCABULARY - len(words)):
        words.add_symbol(f"w{i}")
    return words


@pytest.fixture
def options():
    """options(name=value, ...): a small configuration; options(arch=...): that architecture's own sizes."""

    def make(arch=None, **changes):
        given = {**(SMALL if arch is None else dict(list(SMALL.items())[-3:])), **changes}
        args = argparse.Namespace(**given)
        if arch is not None:
            apply_architecture(ARCHITECTURES[arch], args)
        return MHMoELanguageModelConfig(**vars(args))

    return make


@pytest.fixture
def build(options, dictionary):
    """build(seed=..., **options): the model of `options`, with weights by the seed."""

    def make(seed=0, **changes):
        torch.manual_seed(seed)
        task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
        return MHMoELanguageModel.build_model(options(**changes), task)

    return make


@pytest.fixture
def tokens():
    """tokens(B, T): random words without special symbols."""

    def make(batch, length, seed=1):
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(4, VOCABULARY, (batch, length), generator=generator)

    return make


@pytest.fixture(autouse=True)
def forget_warnings():
    """Every test sees warnings as the first of the process."""
    option_checks._warned.clear()
