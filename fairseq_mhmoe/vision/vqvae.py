"""PatchVQ: a small vector-quantised autoencoder of patches that a laptop trains in minutes.

Letters: B images, G x G patches, D width inside, C width of a code, K codes.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from fairseq_mhmoe.vision.tokenizer import InFloat32, VisualTokenizer, nearest_code, normalised


@dataclass
class PatchVQConfig:
    """The numbers of a PatchVQ.

    Attributes:
        patch_size: side of a patch in pixels.
        num_codes: codes to choose from.
        code_dim: width of a code.
        width: channels inside the encoder and the decoder.
        encoder_blocks: residual blocks of the encoder; each lets a patch see one more neighbour in every direction.
        decoder_blocks: those of the decoder, which only training and pictures use.
        image_size: side of the training images, None for a tokenizer that is not trained.
    """

    patch_size: int = 8
    num_codes: int = 512
    code_dim: int = 16
    width: int = 128
    encoder_blocks: int = 1
    decoder_blocks: int = 2
    image_size: int | None = None

    def __post_init__(self):
        for name in ("patch_size", "num_codes", "code_dim", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} of the image tokenizer: expected at least 1")
        if self.encoder_blocks < 0 or self.decoder_blocks < 0:
            raise ValueError("encoder_blocks and decoder_blocks of the image tokenizer: expected 0 or more")


class Block(nn.Module):
    """[B, D, G, G] -> the same: a 3 x 3 look at the neighbours per channel, then a two-layer network per patch."""

    def __init__(self, width: int):
        super().__init__()
        # what lies beyond the border repeats the border: a code must not tell where its patch was
        self.look = nn.Conv2d(width, width, 3, padding=1, groups=width, padding_mode="replicate")
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        # per patch, not per image: what is far away must not change a code
        seen = self.norm(self.look(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.mix(seen)


class Codes(InFloat32):
    """The last projection of the encoder and the codebook, in float32 whatever the precision of the rest."""

    def __init__(self, config: PatchVQConfig):
        super().__init__()
        self.project = nn.Linear(config.width, config.code_dim)
        # a buffer: moved by averages of what is assigned to it, not by gradients
        self.register_buffer("codebook", normalised(torch.randn(config.num_codes, config.code_dim)))


class PatchVQ(VisualTokenizer):
    """Encoder, codebook of unit vectors, decoder. `forward` gives codes, `reconstruct` pixels from codes."""

    def __init__(self, config: PatchVQConfig | None = None):
        super().__init__()
        self.config = config = config or PatchVQConfig()
        self.patch_size, self.num_codes, self.image_size = config.patch_size, config.num_codes, config.image_size
        self.encoder = nn.Sequential(
            nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size),
            nn.GELU(),
            nn.Conv2d(config.width, config.width, 1),
            *(Block(config.width) for _ in range(config.encoder_blocks)),
        )
        self.codes = Codes(config)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_dim, config.width, 1),
            *(Block(config.width) for _ in range(config.decoder_blocks)),
            nn.Conv2d(config.width, 3 * config.patch_size**2, 1),
            nn.PixelShuffle(config.patch_size),
        )

    def features(self, pixels: Tensor) -> Tensor:
        inside = self.encoder(pixels.to(self.encoder[0].weight.dtype)).permute(0, 2, 3, 1)
        with torch.autocast(pixels.device.type, enabled=False):
            return normalised(self.codes.project(inside.float()))

    def codebook(self) -> Tensor:
        return self.codes.codebook

    def decode(self, vectors: Tensor) -> Tensor:
        """Code vectors [B, G, G, C] -> pixels [B, 3, H, W], about -1 ... 1."""
        return self.decoder(vectors.permute(0, 3, 1, 2).to(self.decoder[0].weight.dtype))

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Images after the way through their codes: uint8 [B, 3, H, W] -> uint8, the same shape."""
        self.check(images)
        features = self.features(images.float() / 127.5 - 1)
        pixels = self.decode(self.codebook()[nearest_code(features, self.codebook())]).float()
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def settings(self) -> dict:
        """The configuration as plain numbers."""
        return asdict(self.config)
