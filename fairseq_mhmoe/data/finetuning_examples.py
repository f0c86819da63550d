"""Examples of fine-tuning: a text and one image or several, with a target; and batches of them.

An item is pass * N + index. What is random about an example depends on (seed, pass, index) alone, whichever worker or
rank makes it. N examples, B rows of a batch, I images of an example, S side of an image, T length of the longest text.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fairseq.data import FairseqDataset
from torch import Tensor

from fairseq_mhmoe.data.image_transforms import ImageTransform
from fairseq_mhmoe.data.images import BadImage, decode_image
from fairseq_mhmoe.data.index_files import IndexFiles, RecordText, image_file

NO_LABEL = -100  # torch's cross entropy leaves it out


class Images:
    """Images as a model reads them.

    Args:
        root: folder that their paths start from.
        size: S.
        crop: transform of training images; None: the whole image, its sides made equal, as in evaluation.
    """

    def __init__(self, root: Path, size: int, crop: ImageTransform | None = None):
        self.root, self.size, self._crop = root, size, crop

    def read(self, name: str, generator: np.random.Generator | None) -> Tensor:
        """uint8 [3, S, S]; ValueError when the file is missing or damaged."""
        path = image_file(self.root, name)
        try:
            image = decode_image(path.read_bytes())
        except OSError as error:
            raise ValueError(f"{path} can't be read ({error.strerror}); check --image-root") from None
        except BadImage as error:
            raise ValueError(f"{path} is no usable image ({error}); fetch it again, or take its records out") from None
        if self._crop is not None and generator is not None:
            return self._crop(image, generator)
        return whole_image(image, self.size)


def whole_image(image, size: int) -> Tensor:
    """All of an RGB image, whatever its proportions: uint8 [3, S, S]; bicubic, with antialiasing."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    return functional.pil_to_tensor(functional.resize(image, [size, size], InterpolationMode.BICUBIC))


class Examples(FairseqDataset):
    """The examples of a split; a subclass says what a record's images and target are, and how targets make a batch.

    Args:
        records: of the split. text: what makes tokens of their texts. images: what reads their images.
        head: of the model, that is to answer.
        seed: of crops and of the order of training; None: in order, nothing random.
    """

    def __init__(self, records: IndexFiles, text: RecordText, images: Images, head: str, pad: int, seed: int | None):
        self.records, self._text, self._images = records, text, images
        self._head, self._pad, self._seed = head, pad, seed
        self._pass = 0

    def image_names(self, record: dict) -> list[str]:
        """The images of a record, in their order."""
        return [record["image_path"]]

    def target(self, record: dict):
        """What the model is to answer."""
        raise NotImplementedError

    def collate_targets(self, targets: Sequence) -> Tensor:
        """Of B examples."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: int) -> dict:
        """{"id", "images" [I of 3, S, S], "tokens" [T], "target"}; ValueError with file and line."""
        visit, index = divmod(int(item), len(self))
        record = self.records[index]
        generator = None if self._seed is None else np.random.default_rng((self._seed, visit, index))
        try:
            images = [self._images.read(name, generator) for name in self.image_names(record)]
            tokens = torch.from_numpy(self._text.tokens(record))
        except ValueError as error:
            raise ValueError(f"{self.records.place(index)}: {error}") from None
        return {"id": index, "images": images, "tokens": tokens, "target": self.target(record)}

    def collater(self, samples: Sequence[dict]) -> dict:
        """A batch: "images" uint8 [B * I, 3, S, S] and "tokens" int64 [B * I, T], the images of an example together."""
        if not samples:
            return {}
        images = [image for sample in samples for image in sample["images"]]
        tokens = torch.nn.utils.rnn.pad_sequence([s["tokens"] for s in samples], True, self._pad)
        pair = {"images": torch.stack(images), "tokens": tokens.repeat_interleave(len(images) // len(samples), 0)}
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": len(samples),
            "net_input": {"pair": pair, "head": self._head},
            "targets": self.collate_targets([sample["target"] for sample in samples]),
        }

    def set_epoch(self, epoch: int) -> None:
        """Choose the pass that `ordered_indices` gives next; epochs count from 1."""
        self._pass = 0 if self._seed is None else max(epoch, 1) - 1

    def ordered_indices(self) -> np.ndarray:
        """Items of a pass [N], at random in training."""
        order = np.arange(len(self))
        if self._seed is not None:
            order = np.random.default_rng((self._seed, self._pass)).permutation(len(self))
        return self._pass * len(self) + order

    def num_tokens(self, index: int) -> int:
        """An example counts as one."""
        return 1

    def size(self, index: int) -> int:
        """An example counts as one."""
        return 1


class Questions(Examples):
    """Questions about an image, with a score for each answer of a list.

    Args:
        answers: C, the length of the list. parts: of Examples.
    """

    def __init__(self, answers: int, **parts):
        super().__init__(**parts)
        self._answers = answers

    def target(self, record: dict) -> Tensor:
        """Scores of all answers [C]; float64, which the trainer leaves alone where it casts to half precision."""
        scores = torch.zeros(self._answers, dtype=torch.float64)
        for label, score in zip(record.get("labels") or (), record.get("scores") or (), strict=True):
            scores[label] = score
        return scores

    def collate_targets(self, targets: Sequence[Tensor]) -> Tensor:
        """[B, C]."""
        return torch.stack(list(targets))


class Statements(Examples):
    """Statements about two images, true (1) or false (0), or not known (NO_LABEL)."""

    def image_names(self, record: dict) -> list[str]:
        """Left and right."""
        return [record["image_path"], record["image2_path"]]

    def target(self, record: dict) -> int:
        """The label."""
        return int(record.get("label", NO_LABEL))  # JSON's true is 1 too

    def collate_targets(self, targets: Sequence[int]) -> Tensor:
        """[B], int64."""
        return torch.tensor(targets)
