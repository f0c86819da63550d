"""Train a small visual tokenizer (a vector-quantised autoencoder of patches) on the images of a folder.

Writes the tokenizer, and beside it a report (.json) and a picture of images and their reconstructions (.png).
"""

import argparse
import hashlib
import io
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from fairseq_mhmoe.cli.files import write_bytes, write_json
from fairseq_mhmoe.cli.image_sources import ImageRecord, choose, load
from fairseq_mhmoe.cli.messages import run
from fairseq_mhmoe.data.image_transforms import fit_image
from fairseq_mhmoe.data.images import BadImage
from fairseq_mhmoe.vision.files import load_tokenizer, save_tokenizer
from fairseq_mhmoe.vision.training import TrainingConfig, train
from fairseq_mhmoe.vision.usage import measure
from fairseq_mhmoe.vision.vqvae import PatchVQ, PatchVQConfig

KEPT_SIDE = 1.25  # images stay in memory with a shorter side of this many times the size of a crop
HELD_OUT = 500  # images to measure with
SHOWN = 32  # images in the picture
COLUMNS = 8
LINES = 10  # of progress


def make_parser() -> argparse.ArgumentParser:
    """The options of the program."""
    parser = argparse.ArgumentParser(
        prog="python -m fairseq_mhmoe.cli.train_image_tokenizer", description=__doc__.split("\n")[0]
    )
    model, training = PatchVQConfig(), TrainingConfig()
    parser.add_argument("data", type=Path, help="prepared image folder, folder with images/ or pairs/, or image files")
    parser.add_argument("output", type=Path, help="file of the tokenizer, as DATA/image_tokenizer.pt")
    parser.add_argument("--image-size", type=int, default=64, help="side of the crops in pixels (default: %(default)s)")
    parser.add_argument("--images", type=int, default=5000, help="at most so many, by chance (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    options = {
        "--patch-size": (model.patch_size, "side of a patch in pixels"),
        "--codes": (model.num_codes, "how many to choose from"),
        "--code-dim": (model.code_dim, "width of a code"),
        "--width": (model.width, "channels of the networks"),
        "--steps": (training.steps, "updates"),
        "--batch-size": (training.batch_size, "crops in an update"),
        "--lr": (training.lr, "highest learning rate"),
        "--min-scale": (training.min_scale, "smallest crop, as a share of the image's shorter side"),
        "--seed": (training.seed, "of the choice of images, the crops and the weights"),
    }
    for name, (default, text) in options.items():
        parser.add_argument(name, type=type(default), default=default, help=f"{text} (default: %(default)s)")
    return parser


def main(words: list[str] | None = None) -> None:
    """Train, measure, write; or say that the same was done before."""
    run(make_tokenizer, make_parser(), words)


def make_tokenizer(arguments: argparse.Namespace) -> None:
    """What `main` does; ValueError for options and images that can't be used."""
    model = PatchVQConfig(arguments.patch_size, arguments.codes, arguments.code_dim, arguments.width)
    training = TrainingConfig(
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        lr=arguments.lr,
        min_scale=arguments.min_scale,
        seed=arguments.seed,
    )
    for name in ("image_size", "images", "threads"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: expected 1 or more")
    size = arguments.image_size
    if size % model.patch_size:
        raise ValueError(f"--image-size {size}: expected a multiple of --patch-size {model.patch_size}")
    device = choose_device(arguments.device)
    torch.set_num_threads(arguments.threads)
    chosen, held_out = choose(arguments.data, arguments.images, HELD_OUT, training.seed)
    settings = {
        "model": asdict(replace(model, image_size=size)),
        "training": asdict(training),
        "images": names_hash(chosen),
        "held_out": names_hash(held_out),
    }
    if (report := finished(arguments.output, settings)) is not None:
        print(f"{arguments.output} is there, made with the same options from the same images")
        return show(report)
    start = time.monotonic()
    images, refused = read(chosen, round(KEPT_SIDE * size))
    others = torch.stack([fit_image(record.open(), size) for record in held_out])
    print(f"{len(images):,} images of {arguments.data}, read in {time.monotonic() - start:.0f} s", flush=True)
    start = time.monotonic()
    tokenizer = train(images, size, model, training, device, Progress(training.steps))
    seconds = time.monotonic() - start
    report = {
        "settings": settings,
        "fingerprint": tokenizer.fingerprint(),
        "data": str(arguments.data),
        "images": len(images),
        "refused": refused,
        "seconds": round(seconds, 1),
        "device": str(device),
        "held_out": measure(tokenizer, others),
    }
    write_bytes(arguments.output.with_suffix(".png"), picture(tokenizer, others[:SHOWN]))
    save_tokenizer(tokenizer, arguments.output)
    # last: it says that the others are complete
    write_json(arguments.output.with_suffix(".json"), report)
    show(report)


def choose_device(name: str) -> torch.device:
    """The device that an option names; ValueError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and not (name.startswith("cuda") and torch.cuda.is_available()):
        raise ValueError(f"--device {name}: expected auto, cpu, or cuda on a machine with a GPU")
    return torch.device(name)


def names_hash(records: list[ImageRecord]) -> str:
    """SHA-256 of the names of images."""
    return hashlib.sha256("\n".join(record.name for record in records).encode("utf-8", "replace")).hexdigest()


def finished(output: Path, settings: dict) -> dict | None:
    """The report of an earlier run with the same settings, if its tokenizer is there and whole."""
    try:
        report = json.loads(output.with_suffix(".json").read_text())
        same = report["settings"] == settings and output.with_suffix(".png").is_file()
        return report if same and load_tokenizer(output).fingerprint() == report["fingerprint"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read(records: list[ImageRecord], side: int) -> tuple[list[Tensor], dict[str, int]]:
    """Images in memory and how many could not be decoded, by reason."""
    images, refused = [], {}
    for record, image in load(records, side):
        if isinstance(image, BadImage):
            print(f"left out {record.name}: {image}", flush=True)
            refused[image.reason] = refused.get(image.reason, 0) + 1
        else:
            images.append(image)
    return images, refused


class Progress:
    """Prints about ten lines during a training."""

    def __init__(self, steps: int):
        self.steps, self.start = steps, time.monotonic()

    def __call__(self, step: int, numbers: dict) -> None:
        if step % max(1, self.steps // LINES) and step != self.steps:
            return
        seconds = time.monotonic() - self.start
        error = float(numbers["error"]) * 127.5**2
        print(f"step {step:,} of {self.steps:,}: squared error {error:,.0f}, {seconds:.0f} s", flush=True)


def picture(tokenizer: PatchVQ, images: Tensor) -> bytes:
    """PNG of rows of images, each row above its reconstructions. images: uint8 [N, 3, S, S]."""
    from PIL import Image

    device = next(tokenizer.parameters()).device
    rows = []
    for part in images.split(COLUMNS):
        for shown in (part, tokenizer.reconstruct(part.to(device)).cpu()):
            row = torch.full((3, shown.shape[2], COLUMNS * shown.shape[3]), 255, dtype=torch.uint8)
            row[:, :, : len(shown) * shown.shape[3]] = torch.cat(list(shown), dim=2)
            rows.append(row)
    file = io.BytesIO()
    Image.fromarray(torch.cat(rows, dim=1).permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def show(report: dict) -> None:
    """Print what a report says."""
    found = report["held_out"]
    blank, error = found["blank"], found["error"]
    print(
        f"{found['images']} images held out: {found['used']} of {found['codes']} codes used, "
        f"perplexity {found['perplexity']:.1f}, most frequent code {found['top_share']:.1%} of the patches\n"
        f"patches of one colour: {blank['patches']:.1%} of all, {blank['codes']} codes are mostly theirs; "
        f"perplexity of the other patches {blank['perplexity_of_others']:.1f}\n"
        f"squared error of the reconstruction {error['reconstruction']:,.0f}; with the mean colour of every patch "
        f"{error['patch_mean']:,.0f}, of every image {error['image_mean']:,.0f}\n"
        f"trained in {report['seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
