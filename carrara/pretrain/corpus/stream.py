"""Random crops of a corpus in an order that depends on the seed alone, so that any step's batch can be read directly.

An epoch contains one crop of every item, in an order drawn from (seed, epoch). A crop's start is drawn from (seed,
epoch, item) on a multiple of the network's stride, so that its frames coincide with those of the item. With tar shards,
an epoch draws an order of the shards and mixes the items of each `MIXED_SHARDS` neighbours, so that consecutive reads
lie close together. Only the crop is decoded, never the whole file. Unreadable items are reported with their batch and
not replaced, so a batch can be smaller.

Letters: B batch, T samples, N items, S shards.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from carrara.core.errors import AudioError, DataError
from carrara.pretrain.corpus.build import Corpus

PREFETCH_STEPS, READERS = 4, 8
# Shards whose items are mixed with one another: enough for variety, few enough to fit a cache of shards.
MIXED_SHARDS = 16
# Resampling may return a sample less than requested.
TOLERANCE_SECONDS = 0.01


@dataclass(frozen=True)
class CropBatch:
    """The crops of one step.

    Attributes:
        step: number of the step.
        samples_BT: float32 crops, nominal ±1.
        epochs, item_indices: epoch of each crop, and index of its item in the corpus.
        errors: why items of this step are missing.
    """

    step: int
    samples_BT: Tensor
    epochs: tuple[int, ...]
    item_indices: tuple[int, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True)
class CropStream:
    """Batches of random crops.

    Attributes:
        corpus: that the crops come from.
        crop_samples: length of a crop.
        stride: starts are multiples of it, in samples.
        batch_size: crops per step.
        seed: decides order and starts.
        target_rms: root mean square that each crop is scaled to; None leaves it as recorded.
    """

    corpus: Corpus
    crop_samples: int
    stride: int
    batch_size: int
    seed: int
    target_rms: float | None = None

    def read_batch(self, step: int, rank: int = 0, world_size: int = 1) -> CropBatch:
        """Return the batch of a step; it is empty if none of its files can be read.

        Args:
            step: number of the step.
            rank, world_size: of the processes that share the batch. Each rank reads consecutive crops; their parts
                differ by at most one crop and, concatenated in the order of the ranks, are the whole batch.
        """
        order = self.crop_order(step, rank, world_size)
        return self._collate(step, order, [self._crop_or_error(epoch, item) for epoch, item in order])

    def first_readable_batch(self) -> CropBatch:
        """Return the first batch with readable files.

        Raises:
            DataError: no file can be read.
        """
        for step in range(math.ceil(len(self.corpus.items) / self.batch_size)):
            batch = self.read_batch(step)
            if batch.item_indices:
                return batch
        raise DataError(f"no file of the corpus can be read, the last for this reason: {batch.errors[-1]}")

    def iter_batches(self, first: int, end: int, rank: int = 0, world_size: int = 1) -> Iterator[CropBatch]:
        """Yield `read_batch` of the steps from `first` up to `end`, excluded; threads read a few steps ahead."""
        pending: deque[tuple[list[tuple[int, int]], list[Future[np.ndarray | str]]]] = deque()
        submitted = first
        with ThreadPoolExecutor(min(READERS, max(1, (os.cpu_count() or 1) - 1)), thread_name_prefix="crops") as pool:
            try:
                for step in range(first, end):
                    while submitted < min(step + PREFETCH_STEPS, end):
                        order = self.crop_order(submitted, rank, world_size)
                        pending.append((order, [pool.submit(self._crop_or_error, *crop) for crop in order]))
                        submitted += 1
                    order, crops = pending.popleft()
                    yield self._collate(step, order, [crop.result() for crop in crops])
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def crop_order(self, step: int, rank: int, world_size: int) -> list[tuple[int, int]]:
        """Return (epoch, item index) of each crop that a rank reads in a step."""
        begin, end = (step * self.batch_size + edge * self.batch_size // world_size for edge in (rank, rank + 1))
        positions = [divmod(position, len(self.corpus.items)) for position in range(begin, end)]
        return [(epoch, int(_epoch_order(self.corpus, self.seed, epoch)[index])) for epoch, index in positions]

    def crop_start(self, epoch: int, item: int) -> int:
        """Return the first sample of an item's crop in an epoch."""
        choices = (self.corpus.items[item].samples - self.crop_samples) // self.stride + 1
        return int(np.random.default_rng([self.seed, 1, epoch, item]).integers(choices)) * self.stride

    def read_crop(self, item: int, start: int) -> np.ndarray:
        """Return the crop of an item that begins at a sample, float32.

        Raises:
            AudioError: it cannot be read, or the file ends before the crop does.
        """
        source, rate = self.corpus.items[item], self.corpus.sample_rate
        crop_T = source.load(rate, start / rate, self.crop_samples / rate + TOLERANCE_SECONDS)[: self.crop_samples]
        if len(crop_T) < self.crop_samples:
            raise AudioError(
                f"{source.name}: ends {len(crop_T) / rate:.2f} s after second {source.start + start / rate:.2f}; it is "
                "truncated"
            )
        if self.target_rms is not None:
            # A crop 60 dB below the target is noise or silence, so the gain is limited to that.
            rms = max(float(np.sqrt(np.mean(np.square(crop_T, dtype=np.float64)))), self.target_rms / 1000)
            crop_T = crop_T * np.float32(self.target_rms / rms)
        return np.ascontiguousarray(crop_T, dtype=np.float32)

    def _crop_or_error(self, epoch: int, item: int) -> np.ndarray | str:
        try:
            return self.read_crop(item, self.crop_start(epoch, item))
        except AudioError as problem:
            return str(problem)

    def _collate(self, step: int, order: Sequence[tuple[int, int]], crops: Sequence[np.ndarray | str]) -> CropBatch:
        read = [(*position, crop_T) for position, crop_T in zip(order, crops) if not isinstance(crop_T, str)]
        samples_BT = torch.zeros(len(read), self.crop_samples)
        for row_T, (_, _, crop_T) in zip(samples_BT, read):
            row_T.copy_(torch.from_numpy(crop_T))
        return CropBatch(
            step,
            samples_BT,
            tuple(epoch for epoch, _, _ in read),
            tuple(item for _, item, _ in read),
            tuple(crop for crop in crops if isinstance(crop, str)),
        )


@lru_cache(maxsize=4)
def _epoch_order(corpus: Corpus, seed: int, epoch: int) -> np.ndarray:
    """Return the items' indices in the order of an epoch, `[N]`."""
    sizes_S, rng = corpus.shard_sizes(), np.random.default_rng([seed, 0, epoch])
    rank_S = rng.permutation(len(sizes_S))
    if len(sizes_S) == len(corpus.items):
        return rank_S
    group_N = np.repeat(rank_S // MIXED_SHARDS, sizes_S)
    return np.lexsort((rng.random(len(group_N)), group_N))
