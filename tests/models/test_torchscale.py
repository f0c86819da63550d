"""The same weights in torchscale 0.3.0's dense Decoder give the same logits; initialisation has the same scales."""

import pytest
import torch

torchscale_decoder = pytest.importorskip("torchscale.architecture.decoder")
from torchscale.architecture.config import DecoderConfig  # noqa: E402
from torchscale.component.embedding import PositionalEmbedding, TextEmbedding  # noqa: E402

STYLES = {
    "pre-norm": dict(subln=False, deepnorm=False),
    "SubLN": dict(subln=True, deepnorm=False),
    "DeepNorm": dict(subln=False, deepnorm=True),
}


def reference(options, vocabulary, positions=True, seed=0):
    """torchscale's Decoder of the same shape; its learned positions start at 2, as fairseq's do after pad 1."""
    torch.manual_seed(seed)
    config = DecoderConfig(
        vocab_size=vocabulary,
        **{
            name: getattr(options, name)
            for name in (
                "decoder_embed_dim",
                "decoder_attention_heads",
                "decoder_ffn_embed_dim",
                "decoder_layers",
                "decoder_normalize_before",
                "no_scale_embedding",
                "layernorm_embedding",
                "subln",
                "deepnorm",
                "share_decoder_input_output_embed",
            )
        },
    )
    embed = TextEmbedding(vocabulary, options.decoder_embed_dim, padding_idx=1)
    embed_positions = PositionalEmbedding(options.tokens_per_sample + 2, options.decoder_embed_dim)
    return torchscale_decoder.Decoder(config, embed, embed_positions if positions else None)


@pytest.fixture
def pair(build, options, dictionary):
    """pair(**options): ours and torchscale's, of the same shape and with their own initialisation."""

    def make(subln, deepnorm, seed=0, **changes):
        changes |= dict(subln=subln, deepnorm=deepnorm, decoder_normalize_before=not deepnorm)
        ours = build(seed=seed, decoder_learned_pos=True, activation_fn="gelu", **changes).decoder
        return ours, reference(options(**changes), len(dictionary), seed=seed)

    return make


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("extra", [{}, {"layernorm_embedding": True, "no_scale_embedding": True}])
@pytest.mark.parametrize("tied", [False, True])
def test_same_weights_same_logits(pair, tokens, style, extra, tied):
    ours, theirs = pair(**STYLES[style], **extra, share_decoder_input_output_embed=tied, decoder_layers=3)
    state = theirs.state_dict()
    if tied:
        del state["output_projection.weight"]
    ours.load_state_dict(state)
    batch = tokens(2, 11)
    torch.testing.assert_close(ours(batch)[0], theirs(batch)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_same_padding_same_logits(pair, tokens, style):
    ours, theirs = pair(**STYLES[style])
    ours.load_state_dict(theirs.state_dict())
    batch = tokens(2, 9)
    batch[1, 6:] = 1
    real = batch.ne(1)
    expected = theirs(batch, self_attn_padding_mask=~real)[0]
    torch.testing.assert_close(ours(batch)[0][real], expected[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_initialisation_has_the_same_scale_for_every_parameter(pair, style):
    ours, theirs = pair(**STYLES[style], decoder_embed_dim=64, decoder_ffn_embed_dim=96, decoder_layers=3)
    expected = dict(theirs.named_parameters())
    assert {name for name, _ in ours.named_parameters()} == expected.keys()
    for name, parameter in ours.named_parameters():
        samples = parameter.numel()
        if name == "embed_positions.weight":  # torchscale leaves nn.Embedding's N(0, 1); fairseq's scale is ours
            assert parameter.std().item() == pytest.approx(64**-0.5, rel=0.1)
        elif expected[name].std() == 0:
            torch.testing.assert_close(parameter, expected[name])
        else:
            tolerance = 4 * samples**-0.5
            assert parameter.std().item() == pytest.approx(expected[name].std().item(), rel=tolerance), name


@pytest.mark.parametrize("style, factor", [("SubLN", 1.3386), ("DeepNorm", 0.4518)])
def test_scaled_initialisation_of_all_matrices_that_torchscale_names_and_fc3(build, style, factor):
    # sqrt(log(2 * 3)) and (8 * 3)^-0.25; the random numbers are the same, so the ratio is exact
    shared = dict(decoder_layers=3, activation_fn="silu", moe_freq=3, moe_expert_count=4)
    shared |= dict(mhmoe_heads_number=2, moe_shared_expert_dim=16)
    plain = dict(build(**shared, decoder_normalize_before=True).named_parameters())
    changes = STYLES[style] | dict(decoder_normalize_before=style != "DeepNorm")
    scaled = dict(build(**shared, **changes).named_parameters())
    for name in plain.keys() & scaled.keys():
        ratio = (scaled[name] / plain[name]).nan_to_num(1.0, 1.0, 1.0).mean().item()
        belongs = any(word in name for word in ("fc1", "fc2", "fc3", "out_proj", "v_proj", ".w_", ".b_"))
        assert ratio == pytest.approx(factor if belongs else 1.0, abs=1e-4), name
