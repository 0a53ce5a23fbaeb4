"""Labelled features as the probes meet them: rows of every layer, grouped into examples, gathered block by block.

An example is one row (a clip's or a window's mean embedding) or several (the frames of an excerpt); 64 examples make an
optimiser step. A step with more rows than fit at once is cut into batches whose gradients are added; neighbouring
batches are gathered together as a block, so that a layer's rows are fetched and converted to float32 once for all the
probes that hear it.

Letters: N examples, R rows, D features, B rows of a batch, H hidden units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carrara.bench.probes.rng import dropout_generator, dropout_mask, epoch_permutation
from carrara.bench.probes.stack import Batch

BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Examples:
    """Rows of features with what the loss wants of them.

    Attributes:
        layers: a matrix by layer, any floating type, on disk or in memory (or a tensor on the device); several
            `Examples` may share it.
        rows_R: which rows of the matrices these are, example by example.
        counts_N: how many rows each example has.
        targets_R: target of each row, `[R, …]`; none where they are only evaluated.
    """

    layers: Mapping[str, Any]
    rows_R: np.ndarray
    counts_N: np.ndarray
    targets_R: np.ndarray | None = None

    @classmethod
    def of_rows(cls, layers: Mapping[str, Any], targets_R: np.ndarray | None = None) -> Examples:
        """Return examples of one row each: all rows of the matrices."""
        rows = len(next(iter(layers.values())))
        return cls(layers, np.arange(rows), np.ones(rows, dtype=np.int64), targets_R)

    def width(self, layer: str) -> int:
        """Return D of a layer."""
        return int(self.layers[layer].shape[1])

    def take(self, layer: str, rows_R: np.ndarray) -> Tensor:
        """Return rows of a layer's matrix as they are stored, where they are stored."""
        matrix = self.layers[layer]
        if isinstance(matrix, Tensor):
            return matrix[torch.from_numpy(rows_R).to(matrix.device)]
        return torch.from_numpy(np.ascontiguousarray(matrix[rows_R]))

    def fetch(self, sources: tuple[str, ...], rows_R: np.ndarray, device: torch.device) -> Tensor:
        """Return rows of the matrices of some layers as float32, `[layers, R, D]`."""
        first = self.take(sources[0], rows_R)
        x_SRD = torch.empty(len(sources), *first.shape, device=device)
        for place, name in enumerate(sources):
            x_SRD[place].copy_(self.take(name, rows_R) if place else first)
        return x_SRD


@dataclass(frozen=True)
class Block:
    """Neighbouring batches and the rows they need, `[R]` into the matrices."""

    rows_R: np.ndarray
    batches: list[Batch]


@dataclass(frozen=True)
class Cutting:
    """How an epoch is cut: examples a step, rows a batch at most, rows a block at most."""

    step: int
    batch_rows: int
    block_rows: int


@dataclass(frozen=True)
class Dropout:
    """H hidden units, the share of them that is dropped, and the seed of the draws."""

    hidden: int
    share: float
    seed: int


def blocks(examples: Examples, epoch: int, cutting: Cutting, dropout: Dropout, device: torch.device) -> Iterator[Block]:
    """Yield an epoch's blocks in the order that (seed, epoch) give."""
    rows: list[np.ndarray] = []
    batches: list[Batch] = []
    held = 0
    for part in _parts(examples, epoch, cutting, dropout):
        size = len(part.picks_B)
        if held and held + size > cutting.block_rows:
            yield Block(np.concatenate(rows), batches)
            rows, batches, held = [], [], 0
        kept_BH = torch.from_numpy(part.kept_BH).to(device).to(torch.float32).div_(1 - dropout.share)
        target_B = torch.from_numpy(part.target_B).to(device)
        batches.append(Batch(held, held + size, part.share, part.first, part.last, target_B, kept_BH))
        rows.append(examples.rows_R[part.picks_B])
        held += size
    yield Block(np.concatenate(rows), batches)


@dataclass(frozen=True)
class _Part:
    picks_B: np.ndarray
    target_B: np.ndarray
    kept_BH: np.ndarray
    share: float
    first: bool
    last: bool


def _parts(examples: Examples, epoch: int, cutting: Cutting, dropout: Dropout) -> Iterator[_Part]:
    if examples.targets_R is None:
        raise ValueError("examples without targets cannot be trained on")
    starts_N = np.concatenate(([0], np.cumsum(examples.counts_N)))
    alone = len(examples.rows_R) == len(examples.counts_N)
    visits = epoch_permutation(dropout.seed, epoch, len(examples.counts_N))
    for step, begin in enumerate(range(0, len(visits), cutting.step)):
        chosen = visits[begin : begin + cutting.step]
        picks = chosen if alone else np.concatenate([np.arange(starts_N[i], starts_N[i + 1]) for i in chosen])
        generator = dropout_generator(dropout.seed, epoch, step)
        for low in range(0, len(picks), cutting.batch_rows):
            part = picks[low : low + cutting.batch_rows]
            kept_BH = dropout_mask(generator, len(part), dropout.hidden, dropout.share)
            last = low + len(part) == len(picks)
            yield _Part(part, examples.targets_R[part], kept_BH, len(part) / len(picks), low == 0, last)
