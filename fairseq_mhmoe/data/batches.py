"""The samples of all sources as one fairseq dataset, whose batches tell the source of each row, and its epochs.

B rows of a batch, N samples of an epoch.
"""

import weakref
from collections.abc import Callable, Sequence

import numpy as np
import torch
from fairseq.data import ConcatDataset, FairseqDataset, MonolingualDataset, data_utils
from fairseq.data.iterators import EpochBatchIterator

from fairseq_mhmoe.data.blocks import Blocks
from fairseq_mhmoe.data.mixture import Mixture


class SourcesDataset(MonolingualDataset):
    """fairseq's dataset of a language model over several sources, one after the other.

    A batch has, where they are given, `source` [B] int64 (number of the row's source) and `nbytes` [B] float64 (bytes
    of text that the row's target tokens stand for).

    `ends` [sources]: the number of samples up to the end of each source.

    Args:
        blocks: of each source.
        numbers: of each source, as the criterion counts them; None for batches without `source`.
        bytes_per_token: of each source in this split; None for batches without `nbytes`.
        mixture: which samples an epoch holds; None for every sample once.
        folders: number of data folders, read one an epoch: an epoch is the folder's own every `folders` epochs.
        options: of MonolingualDataset.
    """

    def __init__(
        self,
        blocks: Sequence[Blocks],
        numbers: Sequence[int] | None = None,
        bytes_per_token: Sequence[float] | None = None,
        mixture: Mixture | None = None,
        folders: int = 1,
        **options,
    ):
        samples = ConcatDataset(blocks) if len(blocks) > 1 else blocks[0]
        super().__init__(samples, samples.sizes, shuffle=True, **options)
        self.blocks = list(blocks)
        self.mixture = mixture
        self.ends = np.cumsum([len(part) for part in blocks])
        self._numbers = None if numbers is None else np.asarray(numbers, dtype=np.int64)
        self._bytes_per_token = None if bytes_per_token is None else np.asarray(bytes_per_token, dtype=np.float64)
        self._folders = folders
        self._visit = 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the samples that `ordered_indices` gives next; epochs count from 1."""
        self._visit = (max(epoch, 1) - 1) // self._folders + 1

    def ordered_indices(self) -> np.ndarray:
        """The epoch's sample numbers [N] by length, those of one length in a random order (numpy's global generator).

        A sample of a small source may come more than once.
        """
        if self.mixture is None:
            return super().ordered_indices()
        samples = self.mixture.samples(self._visit)
        return samples[np.lexsort([np.random.permutation(len(samples)), self.sizes[samples]])]

    def collater(self, samples: Sequence[dict]) -> dict:
        """fairseq's batch of these samples, and what is known of their sources."""
        batch = super().collater(samples)
        if not samples or (self._numbers is None and self._bytes_per_token is None):
            return batch
        ids = batch["id"].numpy()
        parts = np.searchsorted(self.ends, ids, side="right")
        target = batch["target"][0] if isinstance(batch["target"], list) else batch["target"]
        # rows that --pad-to-fixed-bsz adds hold no text
        filling = (0, len(target) - len(ids))
        if self._numbers is not None:
            batch["source"] = torch.from_numpy(np.pad(self._numbers[parts], filling))
        if self._bytes_per_token is not None:
            # float64, which the trainer leaves alone where it casts a batch to half precision
            batch["nbytes"] = torch.from_numpy(np.pad(self.sizes[ids] * self._bytes_per_token[parts], filling))
        return batch

    def _filter_vocab(self, target):
        # stock code writes into the target, which shares its memory with the source
        if len(self.tgt_vocab) != len(self.vocab):
            target = [part.clone() for part in target] if isinstance(target, list) else target.clone()
        return super()._filter_vocab(target)


def all_indices(indices: np.ndarray, dataset: FairseqDataset, max_positions) -> np.ndarray:
    """The indices; ValueError where fairseq would leave out samples that are longer than max_positions."""
    indices, ignored = dataset.filter_indices_by_size(indices, max_positions)
    if len(ignored) > 0:
        longest = max(int(np.max(dataset.size(index))) for index in ignored)
        raise ValueError(
            f"{len(ignored)} samples of up to {longest} tokens are longer than {max_positions}, the smallest of "
            "--max-tokens and the positions of task and model: use --sample-break-mode none with fewer "
            "--tokens-per-sample, or raise that limit"
        )
    return indices


def forget_itself(iterator: EpochBatchIterator) -> None:
    """Let an iterator end its workers as soon as nobody holds it.

    Its sampler holds one of its methods; left to the garbage collector, each worker is waited for five seconds.
    """
    if "ordered_batches" not in vars(iterator):
        method = weakref.WeakMethod(iterator.ordered_batches)
        iterator.ordered_batches = lambda *arguments: method()(*arguments)


class MixtureIterator(EpochBatchIterator):
    """fairseq's iterator over epochs of a mixture: each has samples, and so batches, of its own.

    Args:
        make_batches: sample numbers of an epoch -> batches.
        options: of EpochBatchIterator.
    """

    def __init__(self, dataset: SourcesDataset, make_batches: Callable[[np.ndarray], list], seed: int, **options):
        def batches_of(dataset: SourcesDataset, epoch: int) -> list:
            dataset.set_epoch(epoch)
            with data_utils.numpy_seed(seed + epoch):
                return make_batches(dataset.ordered_indices())

        super().__init__(dataset, dataset.collater, batches_of, seed=seed, **options)

    def load_state_dict(self, state_dict: dict) -> None:
        """Go to a place in an epoch, as fairseq's, which would keep the batches of the epoch that it was built for."""
        if state_dict["epoch"] != self.epoch:
            self._frozen_batches = None
        super().load_state_dict(state_dict)
