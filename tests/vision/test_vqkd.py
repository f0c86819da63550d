"""VQ-KD: a checkpoint in the published layout gives the codes of a computation written out here, number by number."""

import argparse
import math

import pytest
import torch

from fairseq_mhmoe.vision import load_tokenizer, save_tokenizer
from fairseq_mhmoe.vision.vqkd import VQKD, VQKDConfig

WIDTH, LAYERS, INNER, CODES, CODE_DIM, PATCH, SIDE = 128, 2, 192, 97, 8, 4, 3


def published_state(width=WIDTH, layers=LAYERS, inner=INNER, codes=CODES, code_dim=CODE_DIM, patch=PATCH, side=SIDE):
    """Random weights, named and shaped as in vqkd_encoder_base_decoder_3x768x12_clip, what only training needs too."""
    generator = torch.Generator().manual_seed(5)

    def random(*shape, scale=None):
        return torch.randn(shape, generator=generator) * (scale or shape[-1] ** -0.5)

    def norm(name):
        return {f"{name}.weight": 1 + random(width, scale=0.2), f"{name}.bias": random(width, scale=0.2)}

    def linear(name, inputs, outputs):
        return {f"{name}.weight": 1.5 * random(outputs, inputs), f"{name}.bias": random(outputs, scale=0.2)}

    state = {
        "encoder.cls_token": random(1, 1, width, scale=0.5),
        "encoder.pos_embed": random(1, side * side + 1, width, scale=0.5),
        "encoder.patch_embed.proj.weight": random(width, 3, patch, patch, scale=0.3),
        "encoder.patch_embed.proj.bias": random(width, scale=0.2),
    }
    for number in range(layers):
        block = f"encoder.blocks.{number}"
        state |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        state |= {f"{block}.attn.q_bias": random(width, scale=0.5), f"{block}.attn.v_bias": random(width, scale=0.5)}
        state |= {f"{block}.attn.qkv.weight": 2 * random(3 * width, width)}
        state |= linear(f"{block}.attn.proj", width, width)
        state |= linear(f"{block}.mlp.fc1", width, inner) | linear(f"{block}.mlp.fc2", inner, width)
    state |= norm("encoder.fc_norm")
    state |= linear("encode_task_layer.0", width, width) | linear("encode_task_layer.2", width, code_dim)
    vectors = random(codes, code_dim)
    state |= {
        "quantize.embedding.weight": vectors / vectors.norm(dim=1, keepdim=True),
        "quantize.embedding.cluster_size": torch.zeros(codes),
        "quantize.embedding.embed_avg": torch.zeros(codes, code_dim),
        "quantize.embedding.initted": torch.ones(1),
        "quantize.cluster_size": torch.ones(codes),
    }
    only_training = ("decoder.cls_token", "decode_task_layer.0.weight", "teacher_model.logit_scale")
    return state | {name: torch.zeros(1) for name in (*only_training, "scaling_layer.shift", "loss.weight")}


def codes_by_hand(state, images):
    """Codes of images [B, 3, S, S] whose patches are as many as the positions: loops, float64, no torch.nn."""
    w = {name: tensor.double() for name, tensor in state.items()}

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(dim=-1, keepdim=True)
        return x / (x.pow(2).mean(dim=-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def attention(x, name):
        q, k, v = (x @ w[f"{name}.qkv.weight"].T).chunk(3, dim=-1)
        q, v = q + w[f"{name}.q_bias"], v + w[f"{name}.v_bias"]
        heads = []
        for start in range(0, x.shape[-1], 64):
            part = slice(start, start + 64)
            weights = (q[:, part] @ k[:, part].T / 8).exp()
            heads.append(weights / weights.sum(dim=-1, keepdim=True) @ v[:, part])
        return linear(torch.cat(heads, dim=-1), f"{name}.proj")

    def gelu(x):
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    kernel = w["encoder.patch_embed.proj.weight"]
    patch, rows = kernel.shape[-1], images.shape[-1] // kernel.shape[-1]
    found = []
    for image in images.double() / 255 * 2 - 1:
        tokens = [w["encoder.cls_token"][0, 0]]
        for row in range(rows):
            for column in range(rows):
                pixels = image[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
                tokens.append((kernel * pixels).sum(dim=(1, 2, 3)) + w["encoder.patch_embed.proj.bias"])
        x = torch.stack(tokens) + w["encoder.pos_embed"][0]
        for number in range(LAYERS):
            block = f"encoder.blocks.{number}"
            x = x + attention(norm(x, f"{block}.norm1"), f"{block}.attn")
            x = x + linear(gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        x = norm(x[1:], "encoder.fc_norm")
        z = linear(linear(x, "encode_task_layer.0").tanh(), "encode_task_layer.2")
        z = z / z.norm(dim=-1, keepdim=True)
        distances = (z[:, None] - w["quantize.embedding.weight"]).norm(dim=-1)
        found.append(distances.argmin(dim=-1))
    return torch.stack(found)


@pytest.fixture(scope="module")
def state():
    return published_state()


@pytest.fixture
def load(tmp_path):
    """load(content): through a file, as a user does."""

    def through_file(content):
        torch.save(content, tmp_path / "vqkd.pth")
        return load_tokenizer(tmp_path / "vqkd.pth")

    return through_file


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (6, 3, PATCH * SIDE, PATCH * SIDE), generator=torch.Generator().manual_seed(1)).byte()


def test_codes_are_those_of_a_computation_by_hand(state, load, images):
    tokenizer = load({"model": state, "args": argparse.Namespace(lr=1), "epoch": 3})
    expected = codes_by_hand(state, images)
    assert expected.unique().numel() > 15  # of 54: the test would see a wrong layer
    assert torch.equal(tokenizer(images), expected)
    assert (tokenizer.patch_size, tokenizer.num_codes, tokenizer.image_size) == (PATCH, CODES, PATCH * SIDE)
    assert not tokenizer.training and not any(weight.requires_grad for weight in tokenizer.parameters())


@pytest.mark.parametrize("changed", ["encoder.blocks.1.attn.v_bias", "encoder.fc_norm.bias", "encoder.pos_embed"])
def test_every_part_counts(state, load, images, changed):
    other = state | {changed: state[changed].flip(-1)}
    assert not torch.equal(load({"model": other})(images), codes_by_hand(state, images))


def test_all_ways_to_wrap_the_weights_are_read(state, load, images):
    found = [load(content)(images) for content in (state, {"model": state}, {"state_dict": state})]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_final_norm_before_pooling_is_read_too(state, load, images):
    renamed = {name.replace("fc_norm", "norm"): tensor for name, tensor in state.items()}
    assert torch.equal(load({"model": renamed})(images), codes_by_hand(state, images))


def test_half_precision_keeps_the_last_steps_in_float32(state, load, images):
    tokenizer = load({"model": state}).bfloat16()
    assert tokenizer.codebook().dtype == tokenizer.encode_task_layer[0].weight.dtype == torch.float32
    assert torch.equal(tokenizer.codebook(), state["quantize.embedding.weight"])
    assert tokenizer.encoder.cls_token.dtype == torch.bfloat16
    same = (tokenizer(images) == codes_by_hand(state, images)).float().mean()
    assert same > 0.8


def test_positions_are_interpolated_for_other_image_sizes(state, load):
    plane = torch.linspace(0, 1, SIDE)[:, None] + torch.linspace(0, 2, SIDE)
    positions = torch.cat([torch.tensor([7.0]), plane.flatten()])[None, :, None].expand(1, -1, WIDTH).contiguous()
    tokenizer = load({"model": state | {"encoder.pos_embed": positions}})
    larger = tokenizer.encoder.positions(2 * SIDE, 3 * SIDE)
    assert larger.shape == (1, 6 * SIDE * SIDE + 1, WIDTH)
    assert (larger[0, 0] == 7).all()
    grid = larger[0, 1:, 0].view(2 * SIDE, 3 * SIDE)
    assert (grid.diff(dim=0) > 0).all() and (grid.diff(dim=1) > 0).all()  # rows stay rows
    assert grid.mean() == pytest.approx(plane.mean().item(), abs=0.02)
    assert torch.equal(tokenizer.encoder.positions(SIDE, SIDE), positions)
    side = 2 * SIDE * PATCH
    assert tokenizer(torch.zeros(1, 3, side, side, dtype=torch.uint8)).shape == (1, 4 * SIDE * SIDE)


def test_missing_and_unknown_weights_are_named(state, load):
    for name in ("encoder.blocks.1.attn.q_bias", "encode_task_layer.2.weight", "encoder.pos_embed"):
        with pytest.raises(ValueError, match=rf"vqkd\.pth: .*lacks {name}"):
            load({"model": {key: tensor for key, tensor in state.items() if key != name}})
    with pytest.raises(ValueError, match=r"has unknown encoder\.blocks\.0\.gamma_1"):
        load({"model": state | {"encoder.blocks.0.gamma_1": torch.ones(WIDTH)}})
    with pytest.raises(ValueError, match=r"encode_task_layer\.2\.bias \[9\] instead of \[8\]"):
        load({"model": state | {"encode_task_layer.2.bias": torch.zeros(9)}})


def test_an_unfilled_codebook_is_refused(state, load):
    with pytest.raises(ValueError, match="never filled"):
        load({"model": state | {"quantize.embedding.initted": torch.zeros(1)}})


def test_a_width_without_whole_heads_is_refused(load):
    with pytest.raises(ValueError, match="width 100 .* multiple of 64"):
        load({"model": published_state(width=100)})


def test_it_can_be_saved_without_what_training_needs(state, load, images, tmp_path):
    tokenizer = load({"model": state})
    save_tokenizer(tokenizer, tmp_path / "small.pt")
    again = load_tokenizer(tmp_path / "small.pt")
    assert torch.equal(again(images), tokenizer(images)) and again.fingerprint() == tokenizer.fingerprint()
    assert again.config == tokenizer.config


def test_the_published_size_has_the_published_shapes():
    with torch.device("meta"):
        expected = VQKD(VQKDConfig()).state_dict()
    # of vqkd_encoder_base_decoder_3x768x12_clip-d5036aa7.pth
    shapes = {
        "encoder.cls_token": (1, 1, 768),
        "encoder.pos_embed": (1, 197, 768),
        "encoder.patch_embed.proj.weight": (768, 3, 16, 16),
        "encoder.blocks.11.attn.qkv.weight": (2304, 768),
        "encoder.blocks.11.attn.q_bias": (768,),
        "encoder.blocks.11.mlp.fc1.weight": (3072, 768),
        "encoder.blocks.11.mlp.fc2.bias": (768,),
        "encoder.fc_norm.weight": (768,),
        "encode_task_layer.0.weight": (768, 768),
        "encode_task_layer.2.weight": (32, 768),
        "quantize.embedding.weight": (8192, 32),
    }
    assert {name: tuple(expected[name].shape) for name in shapes} == shapes
    # 4 of the patches and positions, 13 a block, 2 + 4 + 1 at the end
    assert len(expected) == 4 + 12 * 13 + 7
    assert sum(tensor.numel() for tensor in expected.values()) == 86_666_784
