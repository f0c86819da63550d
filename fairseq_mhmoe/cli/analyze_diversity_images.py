"""`mhmoe-analyze diversity CHECKPOINT... --images FILE...`: maps over image patches (MH-MoE v1, figures 8 and 10)."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from fairseq_mhmoe.analysis.image_maps import DEFINITION, figures_of, image_map, image_sizes, read_image
from fairseq_mhmoe.analysis.patches import patches_picture
from fairseq_mhmoe.analysis.pictures import save_png
from fairseq_mhmoe.cli.analyze_activation import check_labels, default_labels
from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.cli.text_table import text_table
from fairseq_mhmoe.evaluation.loading import Loaded, load_checkpoint


def run_images(checkpoints: Sequence[Path], data: Path | None, arguments: argparse.Namespace) -> None:
    """Route every image through every checkpoint; write the figures and a picture for each image.

    Raises:
        ValueError: a file that can't be read, checkpoints of models of different sizes, or not of multimodal ones.
    """
    pictures = [read_image(path) for path in arguments.images]
    check_labels(arguments.labels, checkpoints)
    found, sizes, labels = [], [], []
    for checkpoint in checkpoints:
        loaded = load_checkpoint(checkpoint, data, arguments.device, kinds=("multimodal",))
        torch.manual_seed(arguments.seed)
        sizes.append((*_sides(loaded), image_sizes(loaded)))
        if sizes[-1] != sizes[0]:
            raise ValueError(
                f"{checkpoint} and {checkpoints[0]} are models of different sizes (images, patches, experts or heads); "
                "expected checkpoints of one training"
            )
        labels.append(None if loaded.updates is None else f"update {loaded.updates:,}")
        found.append([image_map(loaded, picture) for picture in pictures])
        print(f"{checkpoint}: {len(pictures)} images", flush=True)
    if None in labels or len(set(labels)) < len(labels):
        labels = default_labels(checkpoints)
    labels = arguments.labels or labels
    write(arguments, checkpoints, labels, found, sizes[0][-1])


def _sides(loaded: Loaded) -> tuple[int, int]:
    return loaded.task.image_size, loaded.task.patch_size


def write(arguments: argparse.Namespace, checkpoints, labels, found, sizes) -> None:
    """diversity-images.json, a PNG file for each image, and a table of means."""
    content = {
        "definition": DEFINITION,
        "experts": sizes.experts,
        "heads": sizes.heads,
        "top_k": sizes.top_k,
        "checkpoints": [{"label": label, "checkpoint": str(path)} for label, path in zip(labels, checkpoints)],
        "images": [],
    }
    names = picture_names(arguments.images)
    for number, (path, name) in enumerate(zip(arguments.images, names, strict=True)):
        maps = [of_checkpoint[number] for of_checkpoint in found]
        drawn = list(zip(labels, (each.numbers for each in maps), strict=True))
        save_png(patches_picture(maps[0].pixels, drawn, path.name), arguments.output / name)
        of_image = {label: figures_of(each, sizes) for label, each in zip(labels, maps, strict=True)}
        content["images"].append({"image": str(path), "picture": name, "checkpoints": of_image})
    write_json(arguments.output / "diversity-images.json", content)
    rows = [
        [path.name, *(f"{of_checkpoint[number].numbers.mean():.3f}" for of_checkpoint in found)]
        for number, path in enumerate(arguments.images)
    ]
    print(text_table(["different experts of a patch", *labels], rows))
    written = ", ".join(str(arguments.output / name) for name in ("diversity-images.json", *names))
    print(f"written: {written}")


def picture_names(paths: Sequence[Path]) -> list[str]:
    """Names of the pictures: diversity-STEM.png, with a number where stems are equal."""
    stems = [path.stem for path in paths]
    return [
        f"diversity-{stem}.png" if stems.count(stem) == 1 else f"diversity-{stem}-{number}.png"
        for number, stem in enumerate(stems, 1)
    ]
