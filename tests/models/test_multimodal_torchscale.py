"""The same weights in torchscale 0.3.0's BEiT3 give the same features and gradients; initialisation has its scales."""

import math

import pytest
import torch

torchscale_beit3 = pytest.importorskip("torchscale.model.BEiT3")
from torchscale.architecture.config import EncoderConfig  # noqa: E402

from fairseq_mhmoe.models.multimodal_encoder import who_may_look  # noqa: E402

PAD = 1


def reference(cfg, task, seed=5):
    """torchscale's BEiT3 of the same shape, with its own random weights."""
    torch.manual_seed(seed)
    config = EncoderConfig(
        multiway=True,
        vocab_size=len(task.source_dictionary),
        img_size=task.image_size,
        patch_size=task.patch_size,
        max_source_positions=task.max_text_positions + 2,
        no_output_layer=True,
        activation_fn=str(cfg.activation_fn),
        subln=not cfg.no_subln,
        **{name: getattr(cfg, name) for name in vars(cfg) if name.startswith("encoder_")},
    )
    return torchscale_beit3.BEiT3(config)


@pytest.fixture
def both(multimodal, multimodal_options, multimodal_task):
    """both(**options): ours with torchscale's weights, and torchscale's."""

    def make(**changes):
        ours = multimodal(**changes).beit3
        theirs = reference(multimodal_options(**changes), multimodal_task())
        with torch.no_grad():  # norms, tokens: what starts equal for images and text is told apart
            for p in theirs.parameters():
                p.add_(0.1 * torch.randn_like(p))
        ours.load_state_dict(theirs.state_dict())  # names and shapes are the same
        return ours, theirs

    return make


def their_features(theirs, stream):
    """torchscale's answer to a stream of ours."""
    images, tokens = stream.get("images"), stream.get("tokens")
    pads = None if tokens is None else tokens.eq(PAD)
    blocked = None
    if stream.get("causal"):
        image = 0 if images is None else theirs.vision_embed.num_position_embeddings()
        length = image + tokens.shape[1]
        blocked = (~who_may_look(torch.zeros(1, length, dtype=torch.bool), image, length, True))[0, 0].float()
    out = theirs(
        textual_tokens=tokens,
        visual_tokens=None if images is None else images / 127.5 - 1,
        text_padding_position=pads,
        attn_mask=blocked,
        vision_masked_position=stream.get("image_mask"),
    )
    return out["encoder_out"]


def streams(case, make):
    """Streams by name; the longest text of each has no pads."""
    stream = make(rows=3, length=9, pads=(0, 2, 5))
    return {
        "image": {"images": stream["images"]},
        "masked image": {"images": stream["images"], "image_mask": stream["image_mask"]},
        "text": {"tokens": stream["tokens"]},
        "pair": {name: stream[name] for name in ("images", "image_mask", "tokens")},
        "caption": {"images": stream["images"], "tokens": stream["tokens"], "causal": True},
        "causal text": {"tokens": stream["tokens"], "causal": True},
    }[case]


CASES = ["image", "masked image", "text", "pair", "caption", "causal text"]


@pytest.mark.parametrize("options", [{}, {"no_subln": True, "activation_fn": "relu"}], ids=["SubLN", "pre-norm"])
@pytest.mark.parametrize("case", CASES)
def test_same_weights_same_features_and_gradients(both, make_stream, case, options):
    ours, theirs = both(**options)
    stream = streams(case, make_stream)
    [parts], extra = ours([stream])
    x = torch.cat([part for part in parts if part is not None], dim=1)
    y = their_features(theirs, stream)
    assert extra == {"l_aux": [], "z_loss": [], "moe_stats": [], "moe_layers": []}
    real = torch.ones(x.shape[:2], dtype=torch.bool)
    if "tokens" in stream:
        real[:, x.shape[1] - stream["tokens"].shape[1] :] = stream["tokens"].ne(PAD)
    assert torch.allclose(x[real], y[real], atol=1e-5)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)) * real.unsqueeze(-1)
    (x * weights).sum().backward()
    (y * weights).sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert {name for name, p in ours.named_parameters() if p.grad is not None and p.grad.any()} == {
        name for name, grad in gradients.items() if grad.any()
    }
    for name, p in ours.named_parameters():
        if name in gradients and p.grad is not None:
            scale = gradients[name].abs().max().clamp(min=1.0)
            assert torch.allclose(p.grad / scale, gradients[name] / scale, atol=1e-5), name


def test_all_streams_at_once_are_what_torchscale_gives_one_by_one(both, make_stream):
    ours, theirs = both()
    given = [streams(case, make_stream) for case in CASES]
    features, _ = ours(given)
    for stream, parts in zip(given, features, strict=True):
        x = torch.cat([part for part in parts if part is not None], dim=1)
        real = their_features(theirs, stream)
        for row in range(3):  # to the end of the row's text
            end = x.shape[1] - (int(stream["tokens"][row].eq(PAD).sum()) if "tokens" in stream else 0)
            assert torch.allclose(x[row, :end], real[row, :end], atol=1e-5)


def test_initial_scales_are_torchscales(multimodal, multimodal_options, multimodal_task):
    changes = dict(encoder_embed_dim=64, encoder_ffn_embed_dim=96)
    ours = dict(multimodal(**changes).beit3.named_parameters())
    theirs = reference(multimodal_options(**changes), multimodal_task())
    embeddings = ("embed_positions", "_token")  # deliberately smaller
    for name, p in theirs.named_parameters():
        if p.dim() > 1 and not any(part in name for part in embeddings):
            assert ours[name].std().item() == pytest.approx(p.std().item(), rel=0.15), name
    assert ours["encoder.embed_positions.A.weight"].std() < 0.03 < theirs.encoder.embed_positions.A.weight.std()


def test_experts_are_scaled_as_feed_forward_networks(multimodal):
    layers = dict(encoder_layers=2, moe_freq=2, moe_expert_count=4)
    scaled = multimodal(**layers).beit3.moe_layers()[0][1].experts
    plain = multimodal(**layers, no_subln=True).beit3.moe_layers()[0][1].experts
    factor = math.sqrt(math.log(4))
    for name in ("w_in", "w_out"):
        ratio = getattr(scaled, name).std() / getattr(plain, name).std()
        assert ratio.item() == pytest.approx(factor, rel=0.05)
