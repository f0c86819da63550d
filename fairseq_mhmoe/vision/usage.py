"""How good the codes of a tokenizer are as targets: how many are used, how evenly, and for what.

Letters: N images, S side of an image, P patches of an image, K codes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_mhmoe.vision.tokenizer import VisualTokenizer
from fairseq_mhmoe.vision.vqvae import PatchVQ

AT_ONCE = 64  # images
BLANK = 3.0  # a patch is blank if its pixels differ from its mean colour by less than this (of 255, root mean square)


def measure(tokenizer: VisualTokenizer, images: Tensor) -> dict:
    """Numbers about the codes of images.

    Args:
        images: uint8 [N, 3, S, S] that the tokenizer was not trained on.
    Returns:
        images, patches, codes: how many there are. used: codes that occur. perplexity: exp of the entropy of their
        distribution, K if all are equally frequent. top_share: of the patches, with the most frequent code.
        blank: share of patches of one colour, how many codes most of whose patches are blank, and the perplexity of
        the codes of the other patches. error (of a PatchVQ): mean squared difference of its reconstruction from the
        pixels (0 ... 255), beside the errors of replacing every patch, or every image, by its mean colour.
    """
    pairs = [_codes_and_blanks(tokenizer, part) for part in images.split(AT_ONCE)]
    codes, blank = (torch.cat(parts) for parts in zip(*pairs))
    counts = torch.bincount(codes, minlength=tokenizer.num_codes)
    on_blank = torch.bincount(codes[blank], minlength=tokenizer.num_codes)
    numbers = {
        "images": len(images),
        "patches": len(codes),
        "codes": tokenizer.num_codes,
        "used": int((counts > 0).sum()),
        "perplexity": perplexity(counts),
        "top_share": int(counts.max()) / len(codes),
        "blank": {
            "patches": int(blank.sum()) / len(codes),
            "codes": int((2 * on_blank > counts).sum()),
            "perplexity_of_others": perplexity(counts - on_blank),
        },
    }
    if isinstance(tokenizer, PatchVQ):
        numbers["error"] = _errors(tokenizer, images)
    return numbers


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of a distribution given by counts [K]; 0 where nothing was counted."""
    counts = counts[counts > 0].double()
    if not len(counts):
        return 0.0
    shares = counts / counts.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def _codes_and_blanks(tokenizer: VisualTokenizer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [n * P] and which patches are blank [n * P], on the CPU."""
    device = next(tokenizer.parameters()).device
    differences = (images.float() - _patch_means(images, tokenizer.patch_size)).pow(2).mean(dim=1, keepdim=True)
    blank = F.avg_pool2d(differences, tokenizer.patch_size).flatten() < BLANK**2
    return tokenizer(images.to(device)).flatten().cpu(), blank


def _errors(tokenizer: PatchVQ, images: Tensor) -> dict:
    """{"reconstruction", "patch_mean", "image_mean"}: mean squared differences, pixels 0 ... 255."""
    device = next(tokenizer.parameters()).device
    sums = torch.zeros(3, dtype=torch.float64)
    for part in images.split(AT_ONCE):
        pixels = part.float()
        whole = pixels.mean(dim=(2, 3), keepdim=True)
        guesses = (tokenizer.reconstruct(part.to(device)).cpu(), _patch_means(part, tokenizer.patch_size), whole)
        sums += torch.stack([(pixels - guess).pow(2).mean() for guess in guesses]) * len(part)
    return dict(zip(("reconstruction", "patch_mean", "image_mean"), (sums / len(images)).tolist()))


def _patch_means(images: Tensor, patch: int) -> Tensor:
    """Images [n, 3, S, S] with every patch in its mean colour, float32."""
    means = F.avg_pool2d(images.float(), patch)
    return means.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)
