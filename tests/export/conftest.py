"""Pairs of models, fairseq's and the exported one, with the same weights; a trained checkpoint and its folder."""

import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported

import pytest
import torch
from omegaconf import OmegaConf

import fairseq_mhmoe  # noqa: F401  registers the model
from fairseq_mhmoe.cli import export as export_cli
from fairseq_mhmoe.export.hf_model import build_model, hf_config, hf_weights
from fairseq_mhmoe.export.modeling_mhmoe import MHMoEConfig, MHMoEForCausalLM
from fairseq_mhmoe.models.options import MHMoELanguageModelConfig

MODEL = (
    "--user-dir fairseq_mhmoe --task gpt --arch mhmoe_lm_tiny --decoder-embed-dim 32 --decoder-layers 2 "
    "--decoder-attention-heads 4 --decoder-ffn-embed-dim 48 --moe-expert-count 4 --moe-ffn-dim 24 "
    "--tokens-per-sample 32"
).split()
TRAINING = (
    "--criterion moe_cross_entropy --optimizer adam --lr 0.01 --lr-scheduler fixed --batch-size 8 --cpu --seed 1 "
    "--no-epoch-checkpoints --disable-validation --log-interval 1 --log-format json"
).split()
VOCABULARY = 61
PAD = 1
SMALL = dict(
    decoder_embed_dim=24,
    decoder_layers=2,
    decoder_attention_heads=4,
    decoder_ffn_embed_dim=40,
    decoder_normalize_before=True,
    tokens_per_sample=32,
    max_target_positions=None,
    add_bos_token=False,
)


def options(**changes):
    """The model's options as a checkpoint has them."""
    return OmegaConf.create(OmegaConf.to_container(
        OmegaConf.merge(OmegaConf.structured(MHMoELanguageModelConfig), {**SMALL, **changes}),
        enum_to_str=True,
    ))  # fmt: skip


@pytest.fixture(scope="session")
def pair():
    """pair(seed=0, output_size=None, **options) -> (fairseq's model, the exported one).

    Every parameter is moved from where it starts, so that no norm or bias can be left out unnoticed.
    """

    def make(seed=0, output_size=None, **changes):
        cfg = options(**changes)
        torch.manual_seed(seed)
        ours = build_model(cfg, VOCABULARY, output_size or VOCABULARY)
        with torch.no_grad():
            for parameter in ours.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            for embedding in (ours.decoder.embed_tokens, ours.decoder.embed_positions):
                if isinstance(embedding, torch.nn.Embedding):
                    embedding.weight[PAD] = 0
        config = MHMoEConfig(**hf_config(cfg, cfg, VOCABULARY, output_size or VOCABULARY))
        exported = MHMoEForCausalLM(config).eval()
        missing, unknown = exported.load_state_dict(hf_weights(ours.state_dict(), torch.float32), strict=False)
        assert missing == (["lm_head.weight"] if config.tie_word_embeddings else []) and not unknown
        exported.tie_weights()
        return ours, exported

    return make


@pytest.fixture(scope="session")
def padded():
    """padded(seed=1): tokens [4, 14] and which are real: without padding, with it on the left, right, both sides."""

    def make(seed=1):
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(4, VOCABULARY, (4, 14), generator=generator)
        real = torch.ones_like(tokens, dtype=torch.bool)
        real[1, :5] = real[2, 9:] = real[3, :2] = real[3, 12:] = False
        return tokens.masked_fill(~real, PAD), real

    return make


@pytest.fixture(scope="session")
def trained(tiny_data_dir, run_cli, tmp_path_factory):
    """checkpoint_last.pt after 6 updates, which names its data folder."""
    folder = tmp_path_factory.mktemp("trained")
    run_cli("fairseq-train", tiny_data_dir, *MODEL, *TRAINING, "--max-update", "6", "--save-dir", folder)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="session")
def folder(trained, tmp_path_factory):
    """The exported folder, which the program has checked."""
    target = tmp_path_factory.mktemp("exported") / "hf"
    assert export_cli.main([str(trained), str(target)]) == 0
    return target


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the exported folder to be damaged."""
    return shutil.copytree(folder, tmp_path / "copy")
