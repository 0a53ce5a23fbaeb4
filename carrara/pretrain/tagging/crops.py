"""Crops of tagged clips: random ones of the clips that an epoch draws, and the middle ones that are scored.

They come from the stream of pre-training, with its threads ahead: any step's batch can be had at any time, and the
start of a random crop is drawn from (seed, epoch, clip). A clip shorter than a crop is followed by silence.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from carrara.pretrain.corpus.stream import Stream
from carrara.pretrain.tagging.sampling import epoch_order
from carrara.pretrain.tagging.tagged import Tagged


@dataclass(frozen=True)
class TaggedCrops(Stream):
    """Batches of crops of clips that may be shorter than a crop."""

    @property
    def tagged(self) -> Tagged:
        """The corpus, which has tags."""
        assert isinstance(self.corpus, Tagged)
        return self.corpus

    def start(self, epoch: int, item: int) -> int:
        """Return the first sample of a clip's crop in an epoch."""
        return super().start(epoch, item) if self.corpus.items[item].samples > self.crop else 0

    def _read(self, item: int, start: int) -> np.ndarray:
        there = min(self.crop, self.corpus.items[item].samples)
        if there == self.crop:
            return super()._read(item, start)
        samples_T = dataclasses.replace(self, crop=there)._read(item, start)
        return np.pad(samples_T, (0, self.crop - there))


@dataclass(frozen=True)
class BalancedCrops(TaggedCrops):
    """Random crops of the clips that each epoch draws; `clips` is how many it draws at most."""

    clips: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, of which the last may be smaller."""
        return math.ceil(len(epoch_order(self.tagged, self.seed, 0, self.clips)) / self.batch)

    def _drawn(self, step: int, rank: int, ranks: int) -> list[tuple[int, int]]:
        epoch, place = divmod(step, self.steps_per_epoch)
        order_N = epoch_order(self.tagged, self.seed, epoch, self.clips)
        return [(epoch, int(item)) for item in order_N[place * self.batch : (place + 1) * self.batch]]


@dataclass(frozen=True)
class MiddleCrops(TaggedCrops):
    """The middle crop of every clip, in order."""

    @property
    def steps(self) -> int:
        """Batches of all clips."""
        return math.ceil(len(self.corpus.items) / self.batch)

    def start(self, epoch: int, item: int) -> int:
        """Return the first sample of a clip's middle crop."""
        left = max(self.corpus.items[item].samples - self.crop, 0)
        return left // 2 // self.stride * self.stride

    def _drawn(self, step: int, rank: int, ranks: int) -> list[tuple[int, int]]:
        last = min((step + 1) * self.batch, len(self.corpus.items))
        return [(0, item) for item in range(step * self.batch, last)]
