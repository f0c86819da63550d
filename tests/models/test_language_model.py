"""The model as fairseq's programs build it: from a command line, from a configuration, from a checkpoint."""

from types import SimpleNamespace

import pytest
import torch
from fairseq import options as fairseq_options
from fairseq.data import Dictionary, TruncatedDictionary
from fairseq.dataclass.configs import EMAConfig
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import build_model
from fairseq.models.ema.ema import EMA

from fairseq_mhmoe.models.language_model import MHMoELanguageModel

# the model's part of the published example line, papers' sizes
PUBLISHED = (
    "--arch gpt_small_v2 --moe-gating-use-fp32 --moe-normalize-gate-prob-before-dropping "
    "--moe-eval-capacity-token-fraction -1.0 --moe-expert-count 8 --moe-freq 2 --moe-top-k 1 --moe-top1-expert "
    "--activation-fn silu --share-decoder-input-output-embed --flash-attention --rotary-embed "
    "--no-token-positional-embeddings --no-scale-embedding --no-bias --rms-norm --input-quant-method absmax_per_token "
    "--weight-quant-method absmean --input-bits 32 --weight-bits 32 --scale-length 2048 --mhmoe-heads-number 3 "
    "--moe-second-expert-policy random --moe-ffn-dim 2048 --checkpoint-activations"
)
PUBLISHED_WARNINGS = {
    "--flash-attention",
    "--scale-length",
    "--input-quant-method",
    "--weight-quant-method",
    "--moe-gating-use-fp32",
    "--moe-top1-expert",
    "--moe-second-expert-policy",
    "--moe-normalize-gate-prob-before-dropping",
}


@pytest.fixture
def from_command_line(dictionary):
    """from_command_line("--arch ...") -> (configuration, model), through fairseq's parser and model registry."""

    def make(line):
        parser = fairseq_options.get_training_parser()
        words = ["data", "--task", "language_modeling", *line.split()]
        cfg = convert_namespace_to_omegaconf(fairseq_options.parse_args_and_arch(parser, words))
        task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
        return cfg.model, build_model(cfg.model, task)

    return make


def test_published_example_line_builds_with_its_warnings(from_command_line, caplog):
    with torch.device("meta"):
        cfg, model = from_command_line(PUBLISHED)
    warned = {r.message.split()[0] for r in caplog.records if "has no effect" in r.message}
    assert warned == PUBLISHED_WARNINGS
    layer = model.decoder.layers[1].moe_layer
    assert layer.experts.w_in.shape == (8, 2 * 2048, 768 // 3)
    assert cfg.decoder_normalize_before


def test_command_line_wins_over_the_architecture(from_command_line):
    cfg, model = from_command_line("--arch mhmoe_lm_tiny --decoder-layers 2 --moe-expert-count 4 --tokens-per-sample 8")
    assert len(model.decoder.layers) == 2
    assert model.decoder.layers[1].moe_layer.experts.w_in.shape[0] == 4
    assert model.max_positions() == 8


def test_registered_name_alone_is_an_architecture_too(from_command_line):
    _, model = from_command_line("--arch mhmoe_lm --decoder-embed-dim 24 --decoder-layers 1")
    assert model.decoder.layer_norm is None  # the dataclass's own default: post-norm


def test_command_line_with_mistake_names_the_option(from_command_line):
    with pytest.raises(ValueError, match="--moe-top-k 9: expected at most --moe-expert-count 4"):
        from_command_line("--arch smoe_lm_tiny --moe-top-k 9")


def test_tied_output_of_a_truncated_dictionary_is_refused(options, dictionary):
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=TruncatedDictionary(dictionary, 50))
    with pytest.raises(ValueError, match="--share-decoder-input-output-embed: the output has 50.*the input 101"):
        MHMoELanguageModel.build_model(options(share_decoder_input_output_embed=True), task)
    model = MHMoELanguageModel.build_model(options(), task)
    assert model(torch.tensor([[4, 5]]))[0].shape == (1, 2, 50)


def test_other_pad_index_is_respected(options, tokens):
    words = Dictionary(extra_special_symbols=["<x>"])
    words.pad_index = 4
    task = SimpleNamespace(source_dictionary=words, target_dictionary=words)
    model = MHMoELanguageModel.build_model(options(decoder_learned_pos=True), task).eval()
    text = torch.tensor([[2, 3, 1]])
    padded = torch.tensor([[4, 4, 2, 3, 1]])
    torch.testing.assert_close(model(padded)[0][:, 2:], model(text)[0])


def test_state_dict_of_another_architecture_is_refused(build):
    with pytest.raises(RuntimeError, match="size mismatch|Missing key"):
        build().load_state_dict(build(decoder_ffn_embed_dim=40).state_dict())


def test_ema_follows_a_used_model(build, tokens):
    model = build(moe_freq=2, moe_expert_count=4)
    model(tokens(1, 4))[0].sum().backward()
    ema = EMA(model, EMAConfig(store_ema=True, ema_decay=0.5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    ema.step(model, 1)
    old = build(moe_freq=2, moe_expert_count=4).decoder.embed_tokens.weight
    torch.testing.assert_close(ema.get_model().decoder.embed_tokens.weight, old + 0.5)


def test_normalised_probabilities(build, tokens):
    model = build()
    output = model(tokens(1, 4))
    torch.testing.assert_close(model.get_normalized_probs(output, log_probs=False).sum(-1), torch.ones(1, 4))
