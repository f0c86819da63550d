"""A folder DATA as multimodal tasks read it: prepared text, pairs and images, and an untrained visual tokenizer."""

import io
import shutil
from pathlib import Path

import numpy as np
import torch

COLORS = {"red": (220, 40, 30), "green": (40, 180, 60), "blue": (30, 60, 200), "white": (240, 240, 240)}
SPLITS = {"train": (23, 17), "valid": (5, 3)}  # pairs, images


def draw(number: int) -> bytes:
    """A PNG of 40 x 32 pixels or 32 x 40: a bright rectangle with noise on a ground of one colour."""
    from PIL import Image

    generator = np.random.default_rng(number)
    shape = (32, 40, 3) if number % 2 else (40, 32, 3)
    pixels = np.full(shape, list(COLORS.values())[number % len(COLORS)])
    top, left = generator.integers(20, size=2)
    pixels[top : top + 12, left : left + 12] = generator.integers(256, size=3)
    pixels = np.clip(pixels + generator.integers(-20, 20, size=shape), 0, 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def caption(number: int) -> str:
    """Of such a picture, from 4 words on."""
    return f"a picture on {list(COLORS)[number % len(COLORS)]}" + " of the city and the river" * (number % 3)


def write_multimodal_data(folder: Path, text_folder: Path, patch_size: int = 8, num_codes: int = 24) -> Path:
    """DATA with pairs and images as SPLITS says, and the prepared text folder behind a link; returns DATA."""
    from data_prep.images.pack import write_folder
    from fairseq_mhmoe.vision import save_tokenizer

    folder.mkdir(parents=True)
    (folder / "text").symlink_to(text_folder, target_is_directory=True)
    for name in ("dict.txt", "spm.model"):
        shutil.copy(text_folder / name, folder / name)
    pairs, images, number = {}, {}, 0
    for split, (of_pairs, of_images) in SPLITS.items():
        pairs[split] = [(f"{n:05d}.png", draw(n), caption(n)) for n in range(number, number + of_pairs)]
        number += of_pairs
        images[split] = [(f"{n:05d}.png", draw(n), None) for n in range(number, number + of_images)]
        number += of_images
    write_folder(folder / "pairs", pairs, text_folder)
    write_folder(folder / "images", images)
    save_tokenizer(make_tokenizer(patch_size, num_codes), folder / "image_tokenizer.pt")
    return folder


def make_tokenizer(patch_size: int, num_codes: int):
    """A tokenizer that is not trained; its codes are patches of pictures, so that other patches differ in theirs."""
    from PIL import Image

    from fairseq_mhmoe.vision import PatchVQ, PatchVQConfig

    with torch.random.fork_rng():
        torch.manual_seed(1)
        tokenizer = PatchVQ(PatchVQConfig(patch_size=patch_size, num_codes=num_codes, width=16)).freeze()
        pictures = [Image.open(io.BytesIO(draw(number))).resize((4 * patch_size,) * 2) for number in range(num_codes)]
        pixels = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])
        features = tokenizer.features(pixels / 127.5 - 1).flatten(0, 2)
        tokenizer.codebook().copy_(features[torch.randperm(len(features))[:num_codes]])
    return tokenizer
