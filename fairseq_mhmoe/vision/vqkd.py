"""The tokenizer of BEiT v2 (VQ-KD): a ViT encoder, a projection to 32 numbers, the nearest of 8192 unit vectors.

Module names are those of the published checkpoints (microsoft/unilm, beit2/modeling_vqkd.py).
Letters: B images, H and W pixels, G x G patches, T = G * G + 1 with the CLS token, D width of the encoder, C of a code.
"""

import re
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_mhmoe.vision.tokenizer import InFloat32, VisualTokenizer, normalised

HEAD_WIDTH = 64  # of every ViT that BEiT v2 has; the weights do not tell the number of heads
NORM_EPS = 1e-6
# What only the training of the tokenizer needs: the decoder, its teacher, the statistics of the codebook.
UNUSED = re.compile(r"(decoder|decode_task_layer|teacher_model|scaling_layer|loss\w*)\.|quantize\.cluster_size$")
UNUSED_OF_CODEBOOK = re.compile(r"quantize\.embedding\.(cluster_size|embed_avg|initted)$")
SHOWN = 8  # keys named in a message


@dataclass
class VQKDConfig:
    """The numbers of a VQ-KD tokenizer; the defaults are the published one's.

    Attributes:
        image_size: side of the images that the position embeddings are for.
        patch_size: side of a patch.
        width: D.
        layers: transformer blocks.
        heads: attention heads.
        inner: width inside the feed-forward network.
        num_codes: vectors in the codebook.
        code_dim: C.
        final_norm: name of the last layer norm: "fc_norm" (published), or "norm".
    """

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    inner: int = 3072
    num_codes: int = 8192
    code_dim: int = 32
    final_norm: str = "fc_norm"


class Attention(nn.Module):
    """Self-attention; queries and values have a bias, keys have none."""

    def __init__(self, config: VQKDConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(config.width))
        self.v_bias = nn.Parameter(torch.zeros(config.width))
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        images, tokens, width = x.shape
        qkv = F.linear(x, self.qkv.weight, bias).view(images, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(images, tokens, width))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: VQKDConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.inner)
        self.fc2 = nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """[B, T, D] -> the same; layer norms come first."""

    def __init__(self, config: VQKDConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """Pixels [B, 3, H, W] -> features of the patches [B, G * G, D]."""

    def __init__(self, config: VQKDConfig):
        super().__init__()
        side = config.image_size // config.patch_size
        self.final_norm = config.final_norm
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side + 1, config.width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.layers))
        setattr(self, config.final_norm, nn.LayerNorm(config.width, eps=NORM_EPS))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed.proj(pixels.to(self.cls_token.dtype))
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        x = x + self.positions(*patches.shape[2:]).to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return getattr(self, self.final_norm)(x[:, 1:])

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embeddings [1, rows * columns + 1, D], interpolated (bicubic) for another number of patches."""
        cls, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        side = round(grid.shape[1] ** 0.5)
        if (rows, columns) == (side, side):
            return self.pos_embed
        grid = grid.float().view(1, side, side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([cls, grid.flatten(2).transpose(1, 2).to(cls.dtype)], dim=1)


class TaskLayer(InFloat32, nn.Sequential):
    """D -> D -> tanh -> C, in float32 whatever the precision of the encoder."""

    def __init__(self, config: VQKDConfig):
        super().__init__(nn.Linear(config.width, config.width), nn.Tanh(), nn.Linear(config.width, config.code_dim))


class Quantizer(InFloat32):
    """The codebook, in float32."""

    def __init__(self, config: VQKDConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.num_codes, config.code_dim)


class VQKD(VisualTokenizer):
    """The codes of BEiT v2's tokenizer, for images of any size."""

    def __init__(self, config: VQKDConfig | None = None):
        super().__init__()
        self.config = config = config or VQKDConfig()
        self.patch_size, self.num_codes, self.image_size = config.patch_size, config.num_codes, config.image_size
        self.encoder = Encoder(config)
        self.encode_task_layer = TaskLayer(config)
        self.quantize = Quantizer(config)

    def features(self, pixels: Tensor) -> Tensor:
        inside = self.encoder(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            projected = normalised(self.encode_task_layer(inside.float()))
        rows, columns = (side // self.patch_size for side in pixels.shape[2:])
        return projected.view(len(pixels), rows, columns, -1)

    def codebook(self) -> Tensor:
        return self.quantize.embedding.weight

    def settings(self) -> dict:
        """The configuration as plain values."""
        return asdict(self.config)


def is_published(state: dict) -> bool:
    """Whether weights look like those of a VQ-KD tokenizer."""
    return any(name.startswith("quantize.embedding.") for name in state)


def from_published(state: dict) -> VQKD:
    """A tokenizer with the weights of a published checkpoint; its sizes are read from the shapes.

    Args:
        state: name -> tensor. What only training needs (decoder, teacher, statistics of the codebook) is left out.
    Raises:
        ValueError: names that are missing or unknown, shapes that don't fit, a codebook that was never filled.
    """
    wanted = {name: tensor for name, tensor in state.items() if not UNUSED.match(name)}
    started = wanted.get("quantize.embedding.initted")
    if started is not None and not bool(started.all()):
        raise ValueError("its codebook was never filled (quantize.embedding.initted is 0); take a trained checkpoint")
    wanted = {name: tensor for name, tensor in wanted.items() if not UNUSED_OF_CODEBOOK.match(name)}
    config = _sizes(wanted)
    with torch.device("meta"):
        tokenizer = VQKD(config)
    expected = tokenizer.state_dict()
    for what, names in (("lacks", expected.keys() - wanted.keys()), ("has unknown", wanted.keys() - expected.keys())):
        if names:
            raise ValueError(f"a VQ-KD checkpoint that {what} {_listed(names)}")
    wrong = [
        f"{name} {list(wanted[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if wanted[name].shape != tensor.shape
    ]
    if wrong:
        raise ValueError(f"a VQ-KD checkpoint whose shapes do not fit together: {_listed(wrong)}")
    tokenizer.load_state_dict({name: tensor.float() for name, tensor in wanted.items()}, assign=True)
    return tokenizer


def _sizes(state: dict) -> VQKDConfig:
    """The configuration that the shapes tell."""
    needed = (
        "encoder.patch_embed.proj.weight",
        "encoder.pos_embed",
        "encoder.blocks.0.mlp.fc1.weight",
        "quantize.embedding.weight",
    )
    if missing := [name for name in needed if name not in state]:
        raise ValueError(f"a VQ-KD checkpoint that lacks {_listed(missing)}")
    patches, positions, inner, codes = (state[name].shape for name in needed)
    if (len(patches), len(positions), len(inner), len(codes)) != (4, 3, 2, 2):
        raise ValueError(f"a VQ-KD checkpoint whose shapes do not fit: {_listed(needed)}")
    width, side = patches[0], round((positions[1] - 1) ** 0.5)
    if width % HEAD_WIDTH or side * side != positions[1] - 1:
        raise ValueError(
            f"a VQ-KD checkpoint of width {width} with {positions[1] - 1} positions; "
            f"expected a multiple of {HEAD_WIDTH} (the width of a head) and a square number"
        )
    blocks = {name.split(".")[2] for name in state if name.startswith("encoder.blocks.")}
    return VQKDConfig(
        image_size=side * patches[2],
        patch_size=patches[2],
        width=width,
        layers=len(blocks),
        heads=width // HEAD_WIDTH,
        inner=inner[0],
        num_codes=codes[0],
        code_dim=codes[1],
        final_norm="norm" if "encoder.norm.weight" in state else "fc_norm",
    )


def _listed(names) -> str:
    names = sorted(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
