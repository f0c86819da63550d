"""Which records of the streams (images, texts, pairs) make a batch, and fairseq's iterator over such batches.

A stream is read pass after pass without an end, each pass in an order of its own; batch number k of a training takes
the records from k * b to (k + 1) * b - 1 of a stream whose batch size is b. So a batch is a function of its number, and
that of epoch and place in it: however many processes share the batches, and wherever a training starts again. Nothing
is kept for a record but its number in the order of a pass, and that only in the process that forms the batches.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from fairseq.data.iterators import EpochBatchIterator

from fairseq_mhmoe.data.batches import forget_itself
from fairseq_mhmoe.data.mixture import Mixture

LARGEST_INT32 = np.iinfo(np.int32).max


class Record(NamedTuple):
    """A record of a stream, and the pass over the stream in which it is read: its crop and masks depend on both."""

    stream: str
    visit: int
    index: int


class Passes:
    """The endless sequence of passes over a stream.

    Args:
        name: of the stream. length: number of its records. seed: any whole number.
        mixture: how the sources of a text are mixed; a pass then has records more than once, and others not at all.
    """

    def __init__(self, name: str, length: int, seed: int, mixture: Mixture | None = None):
        self.name = name
        self.length = length
        self._seed = seed % (1 << 63)
        self._mixture = mixture
        self._last: tuple[int, np.ndarray] | None = None

    def order(self, visit: int) -> np.ndarray:
        """Numbers of the records in the order of a pass (from 0), [length]; the last one is kept."""
        if self._last is None or self._last[0] != visit:
            self._last = None
            generator = np.random.default_rng([self._seed, zlib.crc32(self.name.encode()), visit])
            if self._mixture is not None:
                order = self._mixture.samples(visit + 1)
            else:
                order = np.arange(self.length, dtype=np.int32 if self.length <= LARGEST_INT32 else np.int64)
            generator.shuffle(order)
            self._last = visit, order
        return self._last[1]

    def take(self, start: int, count: int) -> list[Record]:
        """The records at places start .. start + count - 1 of the sequence."""
        records = []
        while count > 0:
            visit, offset = divmod(start, self.length)
            part = self.order(visit)[offset : offset + count]
            records += [Record(self.name, visit, int(index)) for index in part]
            start, count = start + len(part), count - len(part)
        return records


class InOrder:
    """A stream that is read once, from its first record to its last: for validation."""

    def __init__(self, name: str, length: int):
        self.name = name
        self.length = length

    def take(self, start: int, count: int) -> list[Record]:
        """The records from `start` on; fewer than `count`, or none, at the end."""
        return [Record(self.name, 0, index) for index in range(start, min(start + count, self.length))]


class Batches(Sequence):
    """Batches by their numbers, each formed when it is asked for.

    Args:
        streams: by name; batch_sizes: of each of them, records per batch.
        numbers: of the batches. missing: so many empty batches follow.
    """

    def __init__(
        self,
        streams: Mapping[str, Passes | InOrder],
        batch_sizes: Mapping[str, int],
        numbers: range,
        missing: int = 0,
    ):
        self._streams = streams
        self._sizes = batch_sizes
        self._numbers = numbers
        self._missing = missing

    def __len__(self) -> int:
        return len(self._numbers) + self._missing

    def __getitem__(self, place):
        if isinstance(place, slice):
            if place.step not in (None, 1) or place.stop is not None:
                raise ValueError(f"batches from {place}: expected those from a place to the end")
            skipped = max(0, (place.start or 0) - len(self._numbers))
            return Batches(self._streams, self._sizes, self._numbers[place], max(0, self._missing - skipped))
        if not 0 <= place < len(self):
            raise IndexError(f"batch {place} of {len(self)}")
        if place >= len(self._numbers):
            return []
        number = self._numbers[place]
        return [
            record
            for name, stream in self._streams.items()
            for record in stream.take(number * self._sizes[name], self._sizes[name])
        ]

    def share(self, rank: int, ranks: int) -> "Batches":
        """Those of one of several processes, which take turns; all shares are equally long."""
        numbers = self._numbers[rank::ranks]
        return Batches(self._streams, self._sizes, numbers, -(-len(self._numbers) // ranks) - len(numbers))


def batches_per_epoch(streams: Mapping[str, Passes | InOrder], batch_sizes: Mapping[str, int]) -> int:
    """Batches in which the stream that needs most of them is read once."""
    return max(-(-stream.length // batch_sizes[name]) for name, stream in streams.items())


class StreamsIterator(EpochBatchIterator):
    """fairseq's iterator over epochs, which hold one pass over the stream that needs most batches.

    The other streams go on in an epoch where they stopped in the one before. Of a dataset that is not for training
    every epoch is the same.

    Args:
        dataset: a MultimodalDataset. streams, batch_sizes: as of Batches. options: of EpochBatchIterator.
    """

    def __init__(self, dataset, streams: Mapping[str, Passes | InOrder], batch_sizes: Mapping[str, int], **options):
        self._streams = dict(streams)
        self._sizes = dict(batch_sizes)
        self._per_epoch = batches_per_epoch(streams, batch_sizes)
        super().__init__(dataset, dataset.collater, lambda dataset, epoch: None, **options)
        forget_itself(self)

    @property
    def frozen_batches(self) -> Batches:
        """The epoch's batches, of all processes together."""
        return self._batches_of(self.epoch)

    def _batches_of(self, epoch: int) -> Batches:
        first = (epoch - 1) * self._per_epoch if self.dataset.training else 0
        return Batches(self._streams, self._sizes, range(first, first + self._per_epoch))

    def ordered_batches(self, epoch, fix_batches_to_gpus, shuffle) -> Batches:
        """This process's batches of an epoch; their order is that of the passes, which are random themselves."""
        return self._batches_of(epoch).share(self.shard_id, self.num_shards)
