"""Records of images, texts and pairs as masked samples, and batches of all three for masked multimodal models.

B rows of a stream in a batch, S side of its images in pixels, P patches of an image, T length of its texts, M masked
positions.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from fairseq.data import FairseqDataset
from torch import Tensor

from fairseq_mhmoe.data.block_masking import block_mask, masked_patches
from fairseq_mhmoe.data.image_transforms import ImageTransform
from fairseq_mhmoe.data.images import BadImage
from fairseq_mhmoe.data.mixture import Mixture
from fairseq_mhmoe.data.multimodal_streams import Record
from fairseq_mhmoe.data.text_masking import mask_text

if TYPE_CHECKING:
    from fairseq_mhmoe.data.image_shards import ImageShards

STREAMS = ("image", "text", "pair")


class Symbols(NamedTuple):
    """Numbers of a dictionary: special symbols, and the first real symbol and the one after the last."""

    bos: int
    pad: int
    eos: int
    mask: int
    first: int
    end: int


class Images:
    """The images of a stream, with the patches that are to be predicted.

    Args:
        shards: where they come from. transform: makes squares of them.
        patch_size: side of a patch in pixels. ratio: share of the patches that is masked, 0 for none.
        codes: number of a record -> codes [P] int64 of its square, where they are known before.
    """

    def __init__(
        self,
        shards: "ImageShards",
        transform: ImageTransform,
        patch_size: int,
        ratio: float,
        codes: Callable[[int], np.ndarray] | None = None,
    ):
        self.shards = shards
        self.transform = transform
        self.side = transform.size // patch_size
        self.count = masked_patches(self.side**2, ratio)
        self.codes = codes

    def read(self, index: int, generator: np.random.Generator) -> dict[str, Any]:
        """{"image": uint8 [3, S, S], "mask": bool [P]}, and "codes" where known; ValueError names a broken record."""
        try:
            image = self.shards.picture(index)
        except BadImage as error:
            raise ValueError(f"{self.shards.name(index)}: {error}; prepare the images again") from error
        sample = {
            "image": self.transform(image, generator),
            "mask": block_mask(generator, self.side, self.side, self.count).reshape(-1),
        }
        if self.codes is not None and self.count:
            sample["codes"] = self.codes(index)[sample["mask"]]
        return sample


class Texts:
    """The texts of a stream as `<s> tokens </s>`, with the tokens that are to be predicted.

    A piece of a text that ends where a document ends has that `</s>` only.

    Args:
        tokens: number of a record -> its tokens, int64.
        length: most tokens of a text, <s> and </s> among them; what is longer is cut.
        ratio: share of the real tokens that is masked. symbols: of the dictionary.
    """

    def __init__(self, tokens: Callable[[int], np.ndarray], length: int, ratio: float, symbols: Symbols):
        self._tokens = tokens
        self._length = length
        self._ratio = ratio
        self._symbols = symbols

    def read(self, index: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """{"tokens": [T] with masks, "positions": [M], "targets": [M]}, int64."""
        symbols = self._symbols
        inside = self._tokens(index)[: self._length - 2]
        end = [] if len(inside) and inside[-1] == symbols.eos else [symbols.eos]
        tokens = np.concatenate([[symbols.bos], inside, end]).astype(np.int64)
        masked, positions = mask_text(generator, tokens, self._ratio, (symbols.first, symbols.end), symbols.mask)
        return {"tokens": masked, "positions": positions, "targets": tokens[positions]}


class Stream(NamedTuple):
    """A stream: how many records it has, their images, texts or both, and how the sources of a text are mixed."""

    length: int
    images: Images | None
    texts: Texts | None
    mixture: Mixture | None = None


class MultimodalDataset(FairseqDataset):
    """Masked samples of all streams; those of a stream are numbered behind those of the streams before it.

    An item is asked for by its Record, or by its number for the one of the first pass.

    Args:
        streams: by name, in the order of STREAMS. symbols: of the dictionary.
        seed: of crops and masks. training: whether the split is read pass after pass, or once.
    """

    def __init__(self, streams: Mapping[str, Stream], symbols: Symbols, seed: int, training: bool):
        super().__init__()
        self.streams = dict(streams)
        self.training = training
        self._symbols = symbols
        self._seed = seed % (1 << 63)
        ends = np.cumsum([stream.length for stream in streams.values()]).tolist()
        self._starts = dict(zip(streams, [0, *ends], strict=False))

    def __len__(self) -> int:
        return sum(stream.length for stream in self.streams.values())

    def __getitem__(self, record: Record | int) -> dict[str, Any]:
        """{"stream", "id"} and what Images and Texts give. The same for every process that asks for it."""
        if not isinstance(record, Record):
            record = self._record(int(record))
        stream = self.streams[record.stream]
        key = zlib.crc32(f"masks of {record.stream}".encode())
        generator = np.random.default_rng([self._seed, key, record.visit, record.index])
        item = {"stream": record.stream, "id": self._starts[record.stream] + record.index}
        for part in (stream.images, stream.texts):
            if part is not None:
                item.update(part.read(record.index, generator))
        return item

    def _record(self, number: int) -> Record:
        for name, start in self._starts.items():
            if start <= number < start + self.streams[name].length:
                return Record(name, 0, number - start)
        raise IndexError(f"sample {number} behind the last of {len(self)}")

    def collater(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch, whose rows are those of the image stream, then of the text stream, then the pairs.

        "net_input" has None for a stream without rows. Targets of images are there only where their codes are known.
        """
        if not samples:
            return {}
        inputs, targets, counts, ids = dict.fromkeys(STREAMS), {}, {}, []
        for name in STREAMS:
            items = [sample for sample in samples if sample["stream"] == name]
            if items:
                inputs[name], targets[name], counts[name] = collate_stream(items, self._symbols.pad)
                ids += [item["id"] for item in items]
        return {
            "id": torch.tensor(ids),
            "nsentences": len(ids),
            "ntokens": sum(count["image_masked"] + count["text_masked"] for count in counts.values()),
            "net_input": inputs,
            "targets": targets,
            "streams": counts,
        }

    def num_tokens(self, index) -> int:
        """Not known before a record is read; the task's batches have fixed numbers of rows."""
        return 1

    def size(self, index) -> int:
        """As `num_tokens`."""
        return 1


def collate_stream(items: Sequence[dict[str, Any]], pad: int) -> tuple[dict, dict, dict[str, int]]:
    """Inputs, targets and counts of one stream's rows.

    Returns:
        {"images" uint8 [B, 3, S, S], "image_mask" bool [B, P], "image_positions" int64 [M] in B * P or None, "tokens"
        int64 [B, T], "text_positions" int64 [M] in B * T}, of these what the stream has;
        {"image" int64 [M], "text" int64 [M]}, what is known of them; {"rows", "image_masked", "text_masked"}.
    """
    inputs, targets = {}, {}
    counts = {"rows": len(items), "image_masked": 0, "text_masked": 0}
    if "image" in items[0]:
        mask = np.stack([item["mask"] for item in items])
        positions = np.flatnonzero(mask)
        counts["image_masked"] = len(positions)
        inputs["images"] = torch.stack([item["image"] for item in items])
        inputs["image_mask"] = torch.from_numpy(mask)
        inputs["image_positions"] = torch.from_numpy(positions) if len(positions) else None
        if "codes" in items[0]:
            targets["image"] = torch.from_numpy(np.concatenate([item["codes"] for item in items]))
    if "tokens" in items[0]:
        inputs["tokens"], positions = pad_right(items, pad)
        inputs["text_positions"] = torch.from_numpy(positions)
        targets["text"] = torch.from_numpy(np.concatenate([item["targets"] for item in items]))
        counts["text_masked"] = len(positions)
    return inputs, targets, counts


def pad_right(items: Sequence[dict[str, Any]], pad: int) -> tuple[Tensor, np.ndarray]:
    """Texts [B, T] with pads on the right, T the longest of them, and their positions as numbers in B * T."""
    longest = max(len(item["tokens"]) for item in items)
    tokens = np.full((len(items), longest), pad, dtype=np.int64)
    for row, item in enumerate(items):
        tokens[row, : len(item["tokens"])] = item["tokens"]
    positions = [row * longest + item["positions"] for row, item in enumerate(items)]
    return torch.from_numpy(tokens), np.concatenate(positions)
