"""Training of a PatchVQ: an autoencoder first, then codes by k-means, then both together with moving averages.

Letters: B images, G x G patches, R = B * G * G rows, C width of a code, K codes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_mhmoe.vision.crops import random_crops
from fairseq_mhmoe.vision.tokenizer import nearest_code, normalised, to_pixels
from fairseq_mhmoe.vision.vqvae import PatchVQ, PatchVQConfig

KMEANS_ROUNDS = 10
# patches for it: enough for each code, and no more than a CPU compares in seconds unless there are many codes
KMEANS_ROWS_PER_CODE = (4, 64)
KMEANS_ROWS = 1 << 15
LAST_RESTART = 0.8  # of the steps: the decoder has the rest to get used to the last codes


@dataclass
class TrainingConfig:
    """How a PatchVQ is trained.

    Attributes:
        steps: updates.
        batch_size: crops in an update.
        lr: highest learning rate; it rises over a twentieth of the steps and falls as a cosine.
        commitment: weight of the distance between features and their codes.
        decay: of the moving averages of the codes.
        free_steps: share of the steps before there are codes.
        restart_every: updates between two looks for codes that nothing is nearest to.
        restart_below: a code is dead with fewer patches than this share of the average code's.
        min_scale: smallest side of a random crop, as a share of the image's shorter side.
        seed: of everything.
    """

    steps: int = 1000
    batch_size: int = 32
    lr: float = 2e-3
    commitment: float = 0.25
    decay: float = 0.98
    free_steps: float = 0.15
    restart_every: int = 20
    restart_below: float = 0.05
    min_scale: float = 0.5
    seed: int = 1

    def __post_init__(self):
        for name in ("steps", "batch_size", "restart_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} of the image tokenizer: expected at least 1")
        for name in ("decay", "free_steps", "min_scale"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"{name} {getattr(self, name)} of the image tokenizer: expected a number between 0 and 1"
                )
        if self.lr <= 0:
            raise ValueError(f"lr {self.lr} of the image tokenizer: expected a number above 0")


class MovingCodes:
    """The codebook of a PatchVQ as averages of the features that were nearest to each code.

    Attributes:
        counts: [K] patches per update, averaged over updates.
        sums: [K, C] their features' sums, averaged likewise.
    """

    def __init__(self, codebook: Tensor, config: TrainingConfig, generator: torch.Generator):
        self.codebook, self.config, self.generator = codebook, config, generator
        self.counts = torch.ones(len(codebook), device=codebook.device)
        self.sums = codebook.clone()

    def start(self, rows: Tensor) -> None:
        """K-means (cosine) over rows [R, C] of unit length fills the codebook."""
        drawn = torch.randperm(len(rows), generator=self.generator)[: len(self.codebook)]
        if len(drawn) < len(self.codebook):
            raise ValueError(
                f"{len(rows)} patches can't give {len(self.codebook)} codes; give more images, or fewer codes (--codes)"
            )
        self.codebook.copy_(rows[drawn.to(rows.device)])
        for _ in range(KMEANS_ROUNDS):
            counts, sums = self._assigned(rows, nearest_code(rows, self.codebook))
            self.codebook.copy_(torch.where(counts[:, None] > 0, normalised(sums), self.codebook))
        self.counts.copy_(counts)
        self.sums.copy_(torch.where(counts[:, None] > 0, sums, self.codebook))

    def update(self, rows: Tensor, codes: Tensor) -> None:
        """Moves every code towards the mean of the rows [R, C] whose nearest (codes [R]) it is."""
        counts, sums = self._assigned(rows, codes)
        self.counts.lerp_(counts, 1 - self.config.decay)
        self.sums.lerp_(sums, 1 - self.config.decay)
        self.codebook.copy_(normalised(self.sums))

    def restart(self, rows: Tensor, weights: Tensor) -> int:
        """Gives dead codes the features of patches drawn by weight [R]; returns how many were dead."""
        average = self.counts.mean()
        dead = (self.counts < self.config.restart_below * average).nonzero()[:, 0]
        dead = dead[: len(rows)]
        if len(dead):
            drawn = torch.multinomial(weights.cpu() + 1e-8, len(dead), generator=self.generator).to(rows.device)
            self.codebook[dead] = rows[drawn]
            self.counts[dead] = average
            self.sums[dead] = rows[drawn] * average
        return len(dead)

    def _assigned(self, rows: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        counts = torch.bincount(codes, minlength=len(self.codebook)).to(rows.dtype)
        return counts, torch.zeros_like(self.codebook).index_add_(0, codes, rows)


def train(
    images: list[Tensor],
    size: int,
    model: PatchVQConfig,
    config: TrainingConfig,
    device: str | torch.device = "cpu",
    progress: Callable[[int, dict], None] = lambda step, numbers: None,
) -> PatchVQ:
    """Train a PatchVQ on random crops; the same seed, images and machine give the same tokenizer.

    Args:
        images: uint8 [3, H, W] each, of any sizes.
        size: side of the crops in pixels, a multiple of the patch size.
        progress: called after every update with its number and {"loss", "error"}, tensors on the device.
    Returns:
        the tokenizer on `device`, frozen.
    Raises:
        ValueError: no images, a size that is no multiple of the patch, fewer patches than codes.
    """
    if not images:
        raise ValueError("no images to train the image tokenizer on")
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        tokenizer = PatchVQ(model)
    tokenizer.image_size = model.image_size = size
    tokenizer.to(device).train()
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _height(step, config.steps))
    moving = MovingCodes(tokenizer.codes.codebook, config, generator)
    free = round(config.steps * config.free_steps)

    def draw() -> Tensor:
        chosen = torch.randint(len(images), (config.batch_size,), generator=generator).tolist()
        crops = random_crops([images[i] for i in chosen], size, config.min_scale, generator)
        return crops.to(device)

    for step in range(config.steps):
        if step == free:
            moving.start(_rows_for_kmeans(tokenizer, draw))
        batch = draw()
        tokenizer.check(batch)
        pixels = to_pixels(batch)
        features = tokenizer.features(pixels)
        vectors, distance = features, 0.0
        if step >= free:
            codes = nearest_code(features.detach(), moving.codebook)
            nearest = moving.codebook[codes]
            distance = (features - nearest).pow(2).sum(dim=-1).mean()
            vectors = features + (nearest - features).detach()
        errors = (tokenizer.decode(vectors) - pixels).pow(2).mean(dim=1, keepdim=True)
        loss = errors.mean() + config.commitment * distance
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step >= free:
            rows = features.detach().flatten(0, -2)
            moving.update(rows, codes.flatten())
            if step % config.restart_every == 0 and step < LAST_RESTART * config.steps:
                moving.restart(rows, F.avg_pool2d(errors.detach(), tokenizer.patch_size).flatten())
        progress(step + 1, {"loss": loss.detach(), "error": errors.detach().mean()})
    return tokenizer.freeze()


@torch.no_grad()
def _rows_for_kmeans(tokenizer: PatchVQ, draw: Callable[[], Tensor]) -> Tensor:
    """Features [R, C] of enough crops for k-means."""
    least, most = (rows * tokenizer.num_codes for rows in KMEANS_ROWS_PER_CODE)
    wanted = max(least, min(most, KMEANS_ROWS))
    rows = []
    while sum(map(len, rows)) < wanted:
        rows.append(tokenizer.features(to_pixels(draw())).flatten(0, -2))
    return torch.cat(rows)


def _height(step: int, steps: int) -> float:
    """Share of the highest learning rate at a step."""
    warm = max(1, steps // 20)
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.01)
