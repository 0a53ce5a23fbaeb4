"""Crops of a corpus, in an order that depends on nothing but the seed: any step's batch can be had at any time.

A corpus is files and folders of files. An epoch hears one crop of every file, in an order drawn from (seed, epoch); a
crop's start is drawn from (seed, epoch, item) on a multiple of the network's stride, so that its frames fall on those
of the file. A crop is sought and read, the file never decoded whole. Files shorter than a crop are left out at the
start, files that cannot be read when they turn up; both are counted, neither is replaced; a batch can be smaller.

Letters: B batch, T samples.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from carrara.audio.decode import SUFFIXES, blocks, load, probe
from carrara.core.errors import AudioError, DataError
from carrara.core.identity import identity
from carrara.core.progress import track

AHEAD = 4
# Resampling may give a sample less than it was asked for.
SLACK_SECONDS = 0.01


@dataclass(frozen=True)
class Item:
    """A file of the corpus: its name below the folder that was given, its path, and its length in samples."""

    id: str
    path: Path
    samples: int


@dataclass(frozen=True)
class Corpus:
    """The files that crops come from.

    Attributes:
        items: in the order of their names.
        sample_rate: that lengths are counted in, in Hz.
        short: number of files that are shorter than a crop.
        unreadable: the reason of each file that could not be opened.
    """

    items: tuple[Item, ...]
    sample_rate: int
    short: int
    unreadable: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Length of everything together."""
        return sum(item.samples for item in self.items) / self.sample_rate

    def identity(self) -> str:
        """Return the SHA-256 of the names and lengths; the same wherever the folder stands."""
        return identity([self.sample_rate, [[item.id, item.samples] for item in self.items]])


def find(paths: Sequence[Path], sample_rate: int, crop: int) -> Corpus:
    """Return the corpus of some files and folders; only the heads of the files are read.

    Args:
        paths: files, and folders that are searched through.
        sample_rate: of the network, in Hz.
        crop: samples of a crop.

    Raises:
        DataError: a path does not exist, no file has sound in it, or none is as long as a crop.
    """
    items, short, unreadable = [], 0, []
    for name, path in track(_files(paths), "reading the heads of the files"):
        try:
            samples = _samples(path, sample_rate)
        except AudioError as problem:
            unreadable.append(str(problem))
            continue
        if samples < crop:
            short += 1
        else:
            items.append(Item(name, path, samples))
    if not items:
        seconds = f"{crop / sample_rate:g} s"
        raise DataError(
            f"{', '.join(map(str, paths[:3]))}: no file is as long as a crop of {seconds} "
            f"({short} shorter, {len(unreadable)} unreadable); give longer audio, or lower crop_seconds"
        )
    return Corpus(tuple(sorted(items, key=lambda item: item.id)), sample_rate, short, tuple(unreadable))


def _samples(path: Path, sample_rate: int) -> int:
    seconds = probe(path).duration_seconds
    if seconds is not None:
        return int(seconds * sample_rate)
    return sum(len(block) for block in blocks(path, sample_rate))


def _files(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    found: dict[Path, str] = {}
    for path in map(Path, paths):
        if path.is_dir():
            below = [each for each in sorted(path.rglob("*")) if each.suffix.lower() in SUFFIXES and each.is_file()]
            found.update({each: each.relative_to(path).as_posix() for each in below})
        elif path.exists():
            found[path] = ""
        else:
            raise DataError(f"{path}: there is no such file or folder; --corpus takes both")
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no audio file in it; known are {' '.join(sorted(SUFFIXES))}")
    single = [str(path.absolute().parent) for path, name in found.items() if not name]
    root = os.path.commonpath(single) if single else ""
    return [(name or path.absolute().relative_to(root).as_posix(), path) for path, name in found.items()]


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

    def at(self, step: int) -> Batch:
        """Return the batch of a step, whatever was read before; it is empty where not one of its files can be read."""
        crops, epochs, items, bad = [], [], [], []
        for place in range(step * self.batch, (step + 1) * self.batch):
            epoch, position = divmod(place, len(self.corpus.items))
            item = int(_order(len(self.corpus.items), self.seed, epoch)[position])
            try:
                crops.append(torch.from_numpy(self._read(item, self.start(epoch, item))))
            except AudioError as problem:
                bad.append(str(problem))
                continue
            epochs.append(epoch)
            items.append(item)
        samples_BT = torch.stack(crops) if crops else torch.zeros(0, self.crop)
        return Batch(step, samples_BT, tuple(epochs), tuple(items), tuple(bad))

    def start(self, epoch: int, item: int) -> int:
        """Return the first sample of an item's crop in an epoch."""
        choices = (self.corpus.items[item].samples - self.crop) // self.stride + 1
        return int(np.random.default_rng([self.seed, 1, epoch, item]).integers(choices)) * self.stride

    def batches(self, first: int, end: int) -> Iterator[Batch]:
        """Yield the batches of the steps from `first` to before `end`; a thread reads a few ahead."""
        with ThreadPoolExecutor(1, thread_name_prefix="crops") as pool:
            waiting = deque(pool.submit(self.at, step) for step in range(first, min(first + AHEAD, end)))
            try:
                for step in range(first, end):
                    batch = waiting.popleft().result()
                    if step + AHEAD < end:
                        waiting.append(pool.submit(self.at, step + AHEAD))
                    yield batch
            finally:
                for left in waiting:
                    left.cancel()

    def _read(self, item: int, start: int) -> np.ndarray:
        path, rate = self.corpus.items[item].path, self.corpus.sample_rate
        samples_T = load(path, rate, start / rate, self.crop / rate + SLACK_SECONDS)[: self.crop]
        if len(samples_T) < self.crop:
            raise AudioError(f"{path}: ends {len(samples_T) / rate:.2f} s after second {start / rate:.2f}; cut short")
        if self.level is not None:
            # What lies 60 dB below the level is noise or silence, and is raised by no more than that.
            loudness = max(float(np.sqrt(np.mean(np.square(samples_T, dtype=np.float64)))), self.level / 1000)
            samples_T = samples_T * np.float32(self.level / loudness)
        return np.ascontiguousarray(samples_T, dtype=np.float32)


@lru_cache(maxsize=4)
def _order(items: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, epoch]).permutation(items)
