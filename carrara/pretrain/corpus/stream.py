"""Crops of a corpus, in an order that depends on nothing but the seed: any step's batch can be had at any time.

An epoch hears one crop of every item, in an order drawn from (seed, epoch); a crop's start is drawn from (seed, epoch,
item) on a multiple of the network's stride, so that its frames fall on those of the item. Of a corpus of tar shards an
epoch draws an order of the shards, and mixes the items of `TOGETHER` neighbours in it, so that what is read in a while
lies close together. A crop is sought and read, the file never decoded whole. Items that cannot be read are named in
their batch and not replaced; a batch can be smaller.

Letters: B batch, T samples, N items, S shards.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from carrara.audio.decode import load
from carrara.core.errors import AudioError
from carrara.pretrain.corpus.find import find
from carrara.pretrain.corpus.storage import as_file
from carrara.pretrain.corpus.table import Corpus, Item

__all__ = ["Batch", "Corpus", "Item", "Stream", "find"]

AHEAD, READERS = 4, 8  # steps, threads
# Shards whose items are mixed with one another: enough for variety, few enough for a cache of shards to hold.
TOGETHER = 16
# Resampling may give a sample less than it was asked for.
SLACK_SECONDS = 0.01


@dataclass(frozen=True)
class Batch:
    """What one step hears.

    Attributes:
        step: number of the step.
        samples_BT: float32 crops, nominal ±1.
        epochs, items: of each crop, its epoch and the item's number in the corpus.
        bad: why items of this step are missing.
    """

    step: int
    samples_BT: Tensor
    epochs: tuple[int, ...]
    items: tuple[int, ...]
    bad: tuple[str, ...]


class _Crop(NamedTuple):
    """A crop of an item, or why it cannot be read."""

    epoch: int
    item: int
    samples_T: np.ndarray | str


@dataclass(frozen=True)
class Stream:
    """Batches of crops of `crop` samples, whose starts are multiples of `stride`.

    `level` is the root mean square that each crop is brought to; none: as recorded.
    """

    corpus: Corpus
    crop: int
    stride: int
    batch: int
    seed: int
    level: float | None = None

    def at(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """Return the batch of a step, whatever was read before; it is empty where not one of its files can be read.

        Args:
            step: number of the step.
            rank, ranks: of the processes that share the batch. Each reads its own neighbouring crops alone; their
                parts differ by one crop at most and, put together in the order of the ranks, are the whole batch.
        """
        return self._batch(step, [self._crop(epoch, item) for epoch, item in self._drawn(step, rank, ranks)])

    def start(self, epoch: int, item: int) -> int:
        """Return the first sample of an item's crop in an epoch."""
        choices = (self.corpus.items[item].samples - self.crop) // self.stride + 1
        return int(np.random.default_rng([self.seed, 1, epoch, item]).integers(choices)) * self.stride

    def batches(self, first: int, end: int, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
        """Yield what `at` gives for the steps from `first` to before `end`; threads read a few steps ahead."""
        waiting: deque[list[Future[_Crop]]] = deque()
        submitted = first
        with ThreadPoolExecutor(min(READERS, max(1, (os.cpu_count() or 1) - 1)), thread_name_prefix="crops") as pool:
            try:
                for step in range(first, end):
                    while submitted < min(step + AHEAD, end):
                        drawn = self._drawn(submitted, rank, ranks)
                        waiting.append([pool.submit(self._crop, epoch, item) for epoch, item in drawn])
                        submitted += 1
                    yield self._batch(step, [crop.result() for crop in waiting.popleft()])
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _drawn(self, step: int, rank: int, ranks: int) -> list[tuple[int, int]]:
        """Return (epoch, item) of each crop that a rank reads in a step."""
        begin, end = (step * self.batch + edge * self.batch // ranks for edge in (rank, rank + 1))
        places = [divmod(place, len(self.corpus.items)) for place in range(begin, end)]
        return [(epoch, int(_order(self.corpus, self.seed, epoch)[position])) for epoch, position in places]

    def _crop(self, epoch: int, item: int) -> _Crop:
        try:
            return _Crop(epoch, item, self._read(item, self.start(epoch, item)))
        except AudioError as problem:
            return _Crop(epoch, item, str(problem))

    def _batch(self, step: int, crops: Sequence[_Crop]) -> Batch:
        bad = tuple(crop.samples_T for crop in crops if isinstance(crop.samples_T, str))
        heard = [crop for crop in crops if not isinstance(crop.samples_T, str)]
        samples_BT = torch.zeros(len(heard), self.crop)
        for row_T, crop in zip(samples_BT, heard):
            row_T.copy_(torch.from_numpy(crop.samples_T))
        return Batch(step, samples_BT, tuple(crop.epoch for crop in heard), tuple(crop.item for crop in heard), bad)

    def _read(self, item: int, start: int) -> np.ndarray:
        sound, rate = self.corpus.items[item], self.corpus.sample_rate
        begin = sound.start + start / rate
        with as_file(sound.path, sound.offset, sound.size, "" if sound.offset is None else sound.id) as path:
            samples_T = load(path, rate, begin, self.crop / rate + SLACK_SECONDS)[: self.crop]
            if len(samples_T) < self.crop:
                raise AudioError(f"{path}: ends {len(samples_T) / rate:.2f} s after second {begin:.2f}; cut short")
        if self.level is not None:
            # What lies 60 dB below the level is noise or silence, and is raised by no more than that.
            loudness = max(float(np.sqrt(np.mean(np.square(samples_T, dtype=np.float64)))), self.level / 1000)
            samples_T = samples_T * np.float32(self.level / loudness)
        return np.ascontiguousarray(samples_T, dtype=np.float32)


@lru_cache(maxsize=4)
def _order(corpus: Corpus, seed: int, epoch: int) -> np.ndarray:
    """Return the items in the order of an epoch, `[N]`."""
    together_S, draw = corpus.together(), np.random.default_rng([seed, 0, epoch])
    place_S = draw.permutation(len(together_S))
    if len(together_S) == len(corpus.items):
        return place_S
    group_N = np.repeat(place_S // TOGETHER, together_S)
    return np.lexsort((draw.random(len(group_N)), group_N))
