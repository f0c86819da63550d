"""Options of the fine-tuning tasks, and which of them go together."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II, MISSING

AUGMENTATIONS = ("crop", "none")


@dataclass
class FinetuningConfig(FairseqDataclass):
    """Options of every task that fine-tunes an image-text model on index files."""

    data: str = field(default=MISSING, metadata={"help": "folder of index files, with dict.txt and spm.model"})
    image_root: Optional[str] = field(
        default=None, metadata={"help": "folder that the images' paths start from (default: the data folder)"}
    )
    text_data: Optional[str] = field(
        default=None,
        metadata={"help": "folder with dict.txt and spm.model of the pre-trained model (default: the data folder)"},
    )
    image_size: int = field(
        default=224, metadata={"help": "side of the images in pixels; a multiple of --patch-size (BEiT-3: VQAv2 480)"}
    )
    patch_size: int = field(default=16, metadata={"help": "side of a patch in pixels, as in pre-training"})
    max_text_length: int = field(
        default=64, metadata={"help": "tokens of a text, <s> and </s> among them; longer ones are cut"}
    )
    image_augmentation: ChoiceEnum(AUGMENTATIONS) = field(
        default="crop", metadata={"help": "of training images: a random resized crop, or the whole image"}
    )
    image_scale_min: float = field(
        default=0.5, metadata={"help": "smallest share of an image's area that a random crop may show"}
    )
    horizontal_flip: bool = field(
        default=False,
        metadata={"help": "mirror every second training image, as BEiT-3 does; texts then mistake left for right"},
    )
    layer_lr_decay: float = field(
        default=1.0,
        metadata={
            "help": "the learning rate of each layer is this times that of the layer above it: heads 1, embeddings "
            "least; with adam or sgd"
        },
    )
    head_lr_scale: float = field(
        default=1.0, metadata={"help": "the learning rate of the heads is this times --lr (BEiT-3: VQAv2 20)"}
    )
    seed: int = II("common.seed")
    train_subset: str = II("dataset.train_subset")


def check_options(args) -> None:
    """ValueError for an option, or two together, that can't be."""
    if not args.data or not Path(args.data).is_dir():
        raise ValueError(f"no data folder {args.data}; expected one with index files, dict.txt and spm.model")
    for option, folder in (("--image-root", args.image_root), ("--text-data", args.text_data)):
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(f"{option}: no folder {folder}")
    if args.patch_size < 1 or args.image_size < args.patch_size or args.image_size % args.patch_size:
        raise ValueError(
            f"--image-size {args.image_size}: expected a multiple of --patch-size {args.patch_size}; change one of them"
        )
    if args.max_text_length < 3:
        raise ValueError(f"--max-text-length {args.max_text_length}: expected 3 or more: <s>, one token, </s>")
    if not 0 < args.image_scale_min <= 1:
        raise ValueError(f"--image-scale-min {args.image_scale_min}: expected a share of more than 0 and at most 1")
    if not 0 < args.layer_lr_decay <= 1:
        raise ValueError(f"--layer-lr-decay {args.layer_lr_decay}: expected more than 0 and at most 1 (off)")
    if not 0 < args.head_lr_scale < math.inf:
        raise ValueError(f"--head-lr-scale {args.head_lr_scale}: expected more than 0; 1 is --lr itself")
