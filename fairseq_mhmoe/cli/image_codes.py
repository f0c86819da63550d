"""Compute the codes of all images of a prepared folder once, so that training without augmentation need not.

Work is done in parts, each complete or absent: the same command goes on after an interruption, and several processes
may take turns (--share 0/4 ... 3/4).
"""

import argparse
import io
import shutil
from pathlib import Path

import numpy as np
import torch

from data_prep.files import replacing
from fairseq_mhmoe.cli.files import write_bytes, write_json
from fairseq_mhmoe.cli.messages import run
from fairseq_mhmoe.cli.train_image_tokenizer import choose_device
from fairseq_mhmoe.data.image_codes import CODES, META, codes_folder, describe, read_meta
from fairseq_mhmoe.data.image_shards import ImageShards, read_image_manifest
from fairseq_mhmoe.data.image_transforms import fit_image
from fairseq_mhmoe.vision.files import load_tokenizer
from fairseq_mhmoe.vision.tokenizer import VisualTokenizer

PART = 8192  # images
PARTS = "parts"


class FittedImages(torch.utils.data.Dataset):
    """The images of a split, each once: uint8 [3, S, S].

    Args:
        shards: the split.
        size: S.
    """

    def __init__(self, shards: ImageShards, size: int):
        self.shards, self.size = shards, size
        # any record of each image
        self.records = np.zeros(shards.images, np.int64)
        for record in range(len(shards)):
            self.records[shards.image_row(record)] = record

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> torch.Tensor:
        record = int(self.records[row])
        try:
            return fit_image(self.shards.picture(record), self.size)
        except ValueError as error:
            raise ValueError(f"{self.shards.name(record)}: {error}") from error


def make_parser() -> argparse.ArgumentParser:
    """The options of the program."""
    parser = argparse.ArgumentParser(prog="python -m fairseq_mhmoe.cli.image_codes", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="prepared image folder, as DATA/pairs")
    parser.add_argument("--image-tokenizer", type=Path, required=True, help="file of the visual tokenizer")
    parser.add_argument("--image-size", type=int, required=True, help="side of the images in pixels")
    parser.add_argument("--splits", nargs="+", help="which (default: all)")
    parser.add_argument("--batch-size", type=int, default=64, help="images at once (default: %(default)s)")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that decode (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    parser.add_argument("--share", default="0/1", help="I/N: number I of N processes (default: %(default)s)")
    parser.add_argument("--part", type=int, default=PART, help="images written at once (default: %(default)s)")
    return parser


def main(words: list[str] | None = None) -> None:
    """Command line; status 1 and one line when something is wrong."""
    run(compute_splits, make_parser(), words)


def compute_splits(arguments: argparse.Namespace) -> None:
    """Compute what is missing, split by split; ValueError for options, images and tokenizers that can't be used."""
    share = read_share(arguments.share)
    for name, least in (("image_size", 1), ("batch_size", 1), ("part", 1), ("num_workers", 0)):
        value = getattr(arguments, name)
        if value < least:
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected a whole number of {least} or more")
    splits = arguments.splits or list(read_image_manifest(arguments.folder)["splits"])
    tokenizer = load_tokenizer(arguments.image_tokenizer)
    fingerprint = tokenizer.fingerprint()
    tokenizer.check(torch.zeros(1, 3, arguments.image_size, arguments.image_size, dtype=torch.uint8))
    tokenizer.to(choose_device(arguments.device))
    for split in splits:
        compute(arguments, split, tokenizer, fingerprint, share)


def read_share(text: str) -> tuple[int, int]:
    """ "1/4" -> (1, 4); ValueError for anything else."""
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise ValueError(f"--share {text}: expected I/N with 0 <= I < N, as 0/4")
    return int(number), int(of)


def compute(
    arguments: argparse.Namespace, split: str, tokenizer: VisualTokenizer, fingerprint: str, share: tuple[int, int]
) -> None:
    """Codes of one split: this process's parts, and the whole when no part is missing."""
    folder, size = arguments.folder, arguments.image_size
    shards = ImageShards(folder, split)
    place = codes_folder(folder, split, fingerprint, size)
    meta = describe(folder, split, fingerprint, size, tokenizer.patch_size, tokenizer.num_codes)
    if read_meta(place) == meta:
        print(f"{place} is there")
        return
    images = FittedImages(shards, size)
    # the number of images is in the name, so that another --part begins anew
    parts = [
        (place / PARTS / f"{start:09}-{min(start + arguments.part, len(images)):09}.npy", start)
        for start in range(0, len(images), arguments.part)
    ]
    for path, start in parts[share[0] :: share[1]]:
        if not path.is_file():
            rows = range(start, min(start + arguments.part, len(images)))
            write_bytes(path, _as_npy(_codes_of(images, rows, tokenizer, arguments)))
            print(f"{split}: {rows.stop:,} of {len(images):,} images", flush=True)
    if missing := sum(not path.is_file() for path, _ in parts):
        print(f"{split}: {missing} of {len(parts)} parts are left to other processes (--share)")
        return
    _join(place, [path for path, _ in parts], (len(images), (size // tokenizer.patch_size) ** 2), tokenizer.num_codes)
    # last: it says that the codes are complete
    write_json(place / META, meta)
    shutil.rmtree(place / PARTS, ignore_errors=True)
    print(f"{place}: {len(images):,} images")


def _codes_of(images: FittedImages, rows: range, tokenizer: VisualTokenizer, arguments) -> np.ndarray:
    """Codes [rows, P] of some of the images."""
    device = next(tokenizer.parameters()).device
    batches = torch.utils.data.DataLoader(
        torch.utils.data.Subset(images, rows), batch_size=arguments.batch_size, num_workers=arguments.num_workers
    )
    codes = [tokenizer(batch.to(device, non_blocking=True)).cpu().numpy() for batch in batches]
    return np.concatenate(codes).astype(code_type(tokenizer.num_codes))


def code_type(num_codes: int) -> np.dtype:
    """The smallest type that holds every code."""
    return np.dtype(np.uint16 if num_codes <= 1 << 16 else np.uint32)


def _as_npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _join(place: Path, parts: list[Path], shape: tuple[int, int], num_codes: int) -> None:
    """One file of all parts, whole or not at all."""
    with replacing(place / CODES) as temporary, open(temporary, "wb") as file:
        header = {"descr": code_type(num_codes).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for path in parts:
            file.write(np.load(path, allow_pickle=False).tobytes())


if __name__ == "__main__":
    main()
