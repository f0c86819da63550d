"""Images with masked captions: masked sequence-to-sequence learning, as BEiT-3 is fine-tuned for captions.

A caption is <s> tokens </s>, T symbols; M of them are to be predicted, </s> among those that may be. Each word sees the
image, the words before it and itself, masked ones as masks. B rows of a batch.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fairseq_mhmoe.data.finetuning_examples import Examples
from fairseq_mhmoe.data.index_files import IndexFiles
from fairseq_mhmoe.data.text_masking import SHARE_MASKED, SHARE_RANDOM

MASKS = 1  # tells the generator of masks from that of crops


def mask_caption(
    generator: np.random.Generator, tokens: np.ndarray, ratio: float, words: tuple[int, int], mask: int
) -> tuple[np.ndarray, np.ndarray]:
    """The caption with masks, [T] int64, and the chosen positions in rising order, [M] int64.

    As in BEiT-3: M is ratio * T, rounded, at least 1 and at most T - 1, drawn from all symbols but <s>. Of the chosen
    80 % become the mask, 10 % another word, 10 % stay.

    Args:
        tokens: [T] int64, <s> first; stays as it is.
        words: number of the first word in the dictionary, and the one after the last; random ones come from there.
        mask: number of the mask symbol.
    """
    count = max(1, min(math.floor(ratio * len(tokens) + 0.5), len(tokens) - 1))
    chosen = np.sort(1 + generator.permutation(len(tokens) - 1)[:count])
    fate = generator.random(count)
    others = generator.integers(*words, size=count)
    result = tokens.copy()
    result[chosen[fate < SHARE_MASKED]] = mask
    replaced = (fate >= SHARE_MASKED) & (fate < SHARE_MASKED + SHARE_RANDOM)
    result[chosen[replaced]] = others[replaced]
    return result, chosen


class Captions(Examples):
    """Captions with their images; an image comes once for each of its captions.

    Masks depend on (seed, pass, index); in evaluation on the index alone.

    Args:
        ratio: share of the symbols to predict. words, mask: see `mask_caption`.
        parts: of Examples.
    """

    def __init__(self, ratio: float, words: tuple[int, int], mask: int, **parts):
        super().__init__(**parts)
        self._ratio, self._words, self._mask = ratio, words, mask

    def target(self, record: dict) -> None:
        """The caption itself; see `__getitem__`."""
        return None

    def collate_targets(self, targets: Sequence[Tensor]) -> Tensor:
        """[M] of B captions."""
        return torch.cat(list(targets))

    def __getitem__(self, item: int) -> dict:
        """{"id", "images", "tokens" [T] with masks, "positions" [M], "target" [M]}; ValueError with file and line."""
        example = super().__getitem__(item)
        visit, index = divmod(int(item), len(self))
        generator = np.random.default_rng((self._seed or 0, visit, index, MASKS))
        tokens = example["tokens"].numpy()
        masked, positions = mask_caption(generator, tokens, self._ratio, self._words, self._mask)
        return {
            **example,
            "tokens": torch.from_numpy(masked),
            "positions": torch.from_numpy(positions),
            "target": torch.from_numpy(tokens[positions]),
        }

    def collater(self, samples: Sequence[dict]) -> dict:
        """A batch of the pair stream: "images" uint8 [B, 3, S, S], "tokens" [B, T], "text_positions" [M] in B * T."""
        if not samples:
            return {}
        batch = super().collater(samples)
        pair = batch["net_input"]["pair"]
        length = pair["tokens"].shape[1]
        positions = [row * length + sample["positions"] for row, sample in enumerate(samples)]
        pair |= {"text_positions": torch.cat(positions), "causal": True}
        batch["net_input"] = {"pair": pair}
        batch["ntokens"] = len(batch["targets"])
        batch["targets"] = {"pair": {"text": batch["targets"]}}
        # as in pre-training, so that a rank without data can make a blank batch of it
        batch["streams"] = {"pair": {"rows": len(samples), "image_masked": 0, "text_masked": batch["ntokens"]}}
        return batch


class CaptionedImages:
    """The images of an index file, each once, whether their records have captions or not.

    Args:
        records: of the split, each checked by `check_image_record`.
    Raises:
        ValueError: one number for two images.
    """

    def __init__(self, records: IndexFiles):
        self.records = records
        self._first: dict[int, tuple[int, str]] = {}
        for index in range(len(records)):
            record = records[index]
            number, path = record["image_id"], record["image_path"]
            _, known = self._first.setdefault(number, (index, path))
            if known != path:
                raise ValueError(f"{records.place(index)}: image_id {number} is {path!r} here and {known!r} before")

    @property
    def ids(self) -> list[int]:
        """The images' numbers, in the order of the file."""
        return list(self._first)

    def path(self, number: int) -> str:
        """Of an image, relative to the folder of images."""
        return self._first[number][1]

    def place(self, number: int) -> str:
        """Where an image is named first."""
        return self.records.place(self._first[number][0])


def check_image_record(record: dict) -> None:
    """ValueError unless a record names an image and its number."""
    if not isinstance(record.get("image_path"), str) or not record["image_path"]:
        raise ValueError(f'"image_path" is {record.get("image_path")!r}, expected the path of an image')
    if type(record.get("image_id")) is not int:
        raise ValueError(f'"image_id" is {record.get("image_id")!r}, expected the number of the image')
