"""What every visual tokenizer has: images in, the number of the nearest code of each patch out.

Letters: B images, H and W pixels, G x G patches (rows, columns), C width of a code, K codes.
"""

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS_AT_ONCE = 8192  # of the table of distances: with 8192 codes 256 MB


class InFloat32(nn.Module):
    """A part whose parameters and buffers stay in float32 when the module around it goes to another precision."""

    def _apply(self, fn, recurse=True):
        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(kept, recurse)


class VisualTokenizer(nn.Module):
    """Numbers of the nearest codes of an image's patches, the targets of masked image modelling.

    A subclass sets the three attributes and gives `features` and `codebook`.

    Attributes:
        patch_size: side of a patch in pixels.
        num_codes: K.
        image_size: side of the images that it was trained on, None if it does not matter.
    """

    patch_size: int
    num_codes: int
    image_size: int | None = None

    def features(self, pixels: Tensor) -> Tensor:
        """What is compared with the codes: pixels [B, 3, H, W] in -1 ... 1 -> [B, G, G, C] float32, L2-normalised."""
        raise NotImplementedError

    def codebook(self) -> Tensor:
        """The codes, [K, C] float32."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Codes of images.

        Args:
            images: uint8 [B, 3, H, W], RGB; H and W multiples of the patch size.
        Returns:
            int64 [B, H * W / patch_size^2], row by row; without gradient.
        Raises:
            ValueError: images of another shape or type.
        """
        self.check(images)
        features = self.features(to_pixels(images))
        return nearest_code(features, self.codebook()).flatten(1)

    def check(self, images: Tensor) -> None:
        """ValueError if the tokenizer can't take these images."""
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(
                f"a visual tokenizer takes uint8 images [B, 3, S, S], not {images.dtype} {list(images.shape)}"
            )
        height, width = images.shape[2:]
        if height % self.patch_size or width % self.patch_size or not height or not width:
            raise ValueError(
                f"images of {height} x {width} pixels can't be cut into patches of {self.patch_size}; "
                f"choose an image size that is a multiple of {self.patch_size}"
            )

    def fingerprint(self) -> str:
        """SHA-256 over the weights (names, shapes, float32 values): equal for tokenizers that give equal codes."""
        digest = hashlib.sha256(f"{type(self).__name__} {self.patch_size} {self.num_codes}".encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()

    def freeze(self) -> "VisualTokenizer":
        """Evaluation mode and no gradients; returns itself."""
        return self.eval().requires_grad_(False)


def to_pixels(images: Tensor) -> Tensor:
    """uint8 0 ... 255 -> float32 -1 ... 1."""
    return images.float() / 127.5 - 1


def nearest_code(features: Tensor, codes: Tensor) -> Tensor:
    """Index of the code at the smallest Euclidean distance, compared in float32.

    Args:
        features: [..., C].
        codes: [K, C].
    Returns:
        int64 [...].
    """
    with torch.autocast(features.device.type, enabled=False):
        codes = codes.float()
        rows = features.float().flatten(0, -2)
        lengths = codes.pow(2).sum(dim=1)
        # |f - c|^2 without |f|^2, which is the same for every code
        found = [torch.addmm(lengths, part, codes.t(), alpha=-2).argmin(dim=1) for part in rows.split(ROWS_AT_ONCE)]
    return torch.cat(found).view(features.shape[:-1])


def normalised(features: Tensor) -> Tensor:
    """Features of length 1 in float32."""
    return F.normalize(features.float(), dim=-1)
