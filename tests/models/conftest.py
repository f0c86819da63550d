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
from fairseq_mhmoe.models.multimodal import MHMoEMultimodalModel
from fairseq_mhmoe.models.multimodal_options import MHMoEMultimodalConfig
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


MULTIMODAL = dict(
    encoder_embed_dim=32,
    encoder_layers=2,
    encoder_attention_heads=4,
    encoder_ffn_embed_dim=48,
)
PATCHES = 9


@pytest.fixture
def multimodal_options():
    """multimodal_options(name=value, ...): a small configuration, whatever the architectures say."""

    def make(**changes):
        return MHMoEMultimodalConfig(**{**MULTIMODAL, **changes})

    return make


@pytest.fixture
def multimodal_task(dictionary):
    """multimodal_task(heads=..., **sizes): what the model asks a task for; 24 pixels in patches of 8."""

    def make(heads=None, **sizes):
        if heads is None:
            heads = {"image": {"kind": "codes", "classes": 16}, "text": {"kind": "text"}}
        sizes = {**dict(image_size=24, patch_size=8, max_text_positions=20), **sizes}
        return SimpleNamespace(source_dictionary=dictionary, model_heads=lambda: heads, **sizes)

    return make


@pytest.fixture
def multimodal(multimodal_options, multimodal_task):
    """multimodal(seed=..., task=..., **options): the multimodal model of `options`, with weights by the seed."""

    def make(seed=0, task=None, **changes):
        torch.manual_seed(seed)
        return MHMoEMultimodalModel.build_model(multimodal_options(**changes), task or multimodal_task())

    return make


@pytest.fixture
def make_stream(tokens):
    """make_stream(B, T, pads per row): random images, masks and texts as one stream of pairs."""

    def make(rows=2, length=7, pads=None, seed=1, side=24):
        generator = torch.Generator().manual_seed(seed)
        text = tokens(rows, length, seed)
        for row, count in enumerate(pads or ()):
            text[row, length - count :] = 1
        mask = torch.rand(rows, PATCHES, generator=generator) < 0.4
        mask[:, 0] = True
        return {
            "images": torch.randint(0, 256, (rows, 3, side, side), dtype=torch.uint8, generator=generator),
            "image_mask": mask,
            "image_positions": mask.flatten().nonzero().flatten(),
            "tokens": text,
            "text_positions": torch.arange(1, rows * length, length),
        }

    return make
