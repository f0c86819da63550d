"""Options of task `masked_multimodal`, and which of them go together."""

import math
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass
from omegaconf import II, MISSING


@dataclass
class MaskedMultimodalConfig(FairseqDataclass):
    """Options of the task."""

    data: Any = field(
        default=MISSING,
        metadata={"help": "folder with dict.txt, and text/, pairs/, images/, image_tokenizer.pt as they are used"},
    )
    text_data: Optional[str] = field(
        default=None, metadata={"help": "prepared folder of the text stream (default: DATA/text)"}
    )
    pair_data: Optional[str] = field(
        default=None, metadata={"help": "prepared folder of images with captions (default: DATA/pairs)"}
    )
    image_data: Optional[str] = field(
        default=None, metadata={"help": "prepared folder of images without captions (default: DATA/images)"}
    )
    image_tokenizer: Optional[str] = field(
        default=None, metadata={"help": "file of the visual tokenizer (default: DATA/image_tokenizer.pt)"}
    )
    num_codes: Optional[int] = field(
        default=None, metadata={"help": "codes that the visual tokenizer must have (default: as many as it has)"}
    )
    image_codes: bool = field(
        default=False,
        metadata={
            "help": "take the codes of images that are not cropped at random from the files that `python -m "
            "fairseq_mhmoe.cli.image_codes` made"
        },
    )
    image_size: int = field(default=224, metadata={"help": "side of the square images in pixels"})
    patch_size: int = field(default=16, metadata={"help": "side of a patch in pixels"})
    image_mask_ratio: float = field(default=0.4, metadata={"help": "share of patches masked in the image stream"})
    text_mask_ratio: float = field(default=0.15, metadata={"help": "share of tokens masked in the text stream"})
    pair_image_mask_ratio: float = field(default=0.4, metadata={"help": "share of patches masked in pairs"})
    pair_text_mask_ratio: float = field(default=0.5, metadata={"help": "share of tokens masked in pairs"})
    image_batch_size: Optional[int] = field(
        default=None,
        metadata={"help": "images per batch of the image stream (default: --batch-size; 0: no stream)"},
    )
    text_batch_size: Optional[int] = field(
        default=None, metadata={"help": "texts per batch of the text stream (default: --batch-size; 0: no stream)"}
    )
    pair_batch_size: Optional[int] = field(
        default=None, metadata={"help": "pairs per batch (default: --batch-size; 0: no stream)"}
    )
    tokens_per_sample: int = field(
        default=196, metadata={"help": "tokens of a sample of the text stream, <s> and </s> among them"}
    )
    caption_length: int = field(
        default=64, metadata={"help": "most tokens of a caption, <s> and </s> among them; longer ones are cut"}
    )
    image_augmentation: str = field(
        default="crop", metadata={"help": "of training images: crop (random resized crop and flips), or none"}
    )
    image_scale_min: float = field(default=0.2, metadata={"help": "smallest share of an image that a crop shows"})
    pair_scale_min: float = field(
        default=0.5, metadata={"help": "the same in pairs, whose captions tell of what a small crop leaves out"}
    )
    no_image_flip: bool = field(default=False, metadata={"help": "do not mirror images of the image stream"})
    pair_flip: bool = field(
        default=False,
        metadata={"help": "mirror half of the pairs' images too, though captions may tell left from right"},
    )
    color_jitter: float = field(
        default=0.0, metadata={"help": "largest change of brightness, contrast and saturation in crops; BEiT has 0.4"}
    )
    sampling_alpha: float = field(
        default=1.0, metadata={"help": "mix the sources of the text stream in proportion to p^ALPHA (as in task gpt)"}
    )
    batch_size: Optional[int] = II("dataset.batch_size")
    max_tokens: Optional[int] = II("dataset.max_tokens")
    train_subset: str = II("dataset.train_subset")
    seed: int = II("common.seed")


def check_options(args) -> None:
    """ValueError for an option, or two together, that can't be."""
    if args.max_tokens is not None:
        raise ValueError(
            f"--max-tokens {args.max_tokens}: batches of this task have fixed numbers of rows; give --batch-size and, "
            "where they differ, --image-batch-size, --text-batch-size and --pair-batch-size"
        )
    if args.patch_size < 1 or args.image_size < 1 or args.image_size % args.patch_size:
        raise ValueError(
            f"--image-size {args.image_size} and --patch-size {args.patch_size}: expected a multiple of the patch size"
        )
    for name in ("image_mask_ratio", "text_mask_ratio", "pair_image_mask_ratio", "pair_text_mask_ratio"):
        if not 0 <= getattr(args, name) <= 1:
            raise ValueError(f"{option_of(name)} is {getattr(args, name)}; expected 0 to 1")
    for name in ("image_batch_size", "text_batch_size", "pair_batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 0:
            raise ValueError(f"{option_of(name)} is {getattr(args, name)}; expected 0 (no such stream) or more")
    for name in ("tokens_per_sample", "caption_length"):
        if getattr(args, name) < 3:
            raise ValueError(f"{option_of(name)} is {getattr(args, name)}; expected 3 (<s>, a token, </s>) or more")
    if args.image_augmentation not in ("crop", "none"):
        raise ValueError(f"--image-augmentation is {args.image_augmentation!r}; expected crop or none")
    for name in ("image_scale_min", "pair_scale_min"):
        if not 0 < getattr(args, name) <= 1:
            raise ValueError(f"{option_of(name)} is {getattr(args, name)}; expected above 0, and 1 at most")
    if not 0 <= args.color_jitter < math.inf:
        raise ValueError(f"--color-jitter is {args.color_jitter}; expected 0 (none) or more")
    if not 0 <= args.sampling_alpha < math.inf:
        raise ValueError(f"--sampling-alpha is {args.sampling_alpha}; expected 0 (all sources alike) or more")
    _check_streams(args)


def _check_streams(args) -> None:
    """ValueError where no stream is on, or one that is on has nothing to predict."""
    on = streams_on(args)
    if not on:
        raise ValueError(
            "--image-batch-size, --text-batch-size and --pair-batch-size are all 0; leave one of them out, or raise it"
        )
    for name in ("image", "text"):
        if name in on and not getattr(args, f"{name}_mask_ratio"):
            raise ValueError(
                f"--{name}-mask-ratio 0: nothing would be predicted; raise it, or switch the stream off with "
                f"--{name}-batch-size 0"
            )
    if "pair" in on and not (args.pair_image_mask_ratio or args.pair_text_mask_ratio):
        raise ValueError(
            "--pair-image-mask-ratio 0 and --pair-text-mask-ratio 0: nothing would be predicted; raise one of them, or "
            "switch the stream off with --pair-batch-size 0"
        )


def without_effect(args) -> list[str]:
    """The options that were given and have no effect, each with the reason."""
    on = streams_on(args)
    found = []
    for name in ("text_data", "pair_data", "image_data"):
        stream = name.partition("_")[0]
        if getattr(args, name) is not None and stream not in on:
            found.append(f"{option_of(name)}: --{stream}-batch-size 0 switches the stream off")
    if args.image_augmentation == "none":
        given = {"--color-jitter": args.color_jitter, "--pair-flip": args.pair_flip}
        found += [f"{name}: --image-augmentation none leaves images as they are" for name in given if given[name]]
    if not codes_wanted(args):
        given = {
            "--image-tokenizer": args.image_tokenizer,
            "--num-codes": args.num_codes,
            "--image-codes": args.image_codes or None,
        }
        found += [f"{name}: no codes of images are predicted" for name in given if given[name] is not None]
    if args.sampling_alpha != 1 and "text" not in on:
        found.append("--sampling-alpha: --text-batch-size 0 switches the stream off")
    return found


def streams_on(args) -> list[str]:
    """Names of the streams that are read, in the order of a batch."""
    return [name for name in ("image", "text", "pair") if getattr(args, f"{name}_batch_size") != 0]


def codes_wanted(args) -> bool:
    """Whether codes of images are predicted in any stream."""
    on = streams_on(args)
    return "image" in on or ("pair" in on and args.pair_image_mask_ratio > 0)


def option_of(name: str) -> str:
    """ "image_size" -> "--image-size"."""
    return "--" + name.replace("_", "-")
