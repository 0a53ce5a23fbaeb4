"""Labelled features as probes train on them: rows of every layer, grouped into examples, read block by block.

An example is one row (the mean embedding of a clip or window) or several (the frames of an excerpt); 64 examples make
an optimiser step. A step with more rows than fit in memory is split into micro-batches whose gradients add up.
Neighbouring micro-batches are read together as a block, so a layer's rows are fetched and converted to float32 once for
all probes on that layer.

Letters: N examples, R rows, D features, B rows of a micro-batch, H hidden units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carrara.bench.probes.rng import dropout_generator, dropout_mask, epoch_permutation

BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Examples:
    """Rows of features with their targets.

    Attributes:
        layers: a matrix for each layer, any floating type, on disk or in memory (or a tensor on the device); several
            `Examples` may share it.
        rows_R: indices of rows in the matrices, example by example.
        counts_N: number of rows of each example.
        targets_R: target of each row, `[R, …]`; None for evaluation.
    """

    layers: Mapping[str, Any]
    rows_R: np.ndarray
    counts_N: np.ndarray
    targets_R: np.ndarray | None = None

    @classmethod
    def from_rows(cls, layers: Mapping[str, Any], targets_R: np.ndarray | None = None) -> Examples:
        """Return examples of one row each, for all rows of the matrices."""
        rows = len(next(iter(layers.values())))
        return cls(layers, np.arange(rows), np.ones(rows, dtype=np.int64), targets_R)

    def dim(self, layer: str) -> int:
        """Return D of a layer."""
        return int(self.layers[layer].shape[1])

    def take(self, layer: str, rows_R: np.ndarray) -> Tensor:
        """Return rows of a layer's matrix in their stored type, on the device that holds the matrix."""
        matrix = self.layers[layer]
        if isinstance(matrix, Tensor):
            return matrix[torch.from_numpy(rows_R).to(matrix.device)]
        return torch.from_numpy(np.ascontiguousarray(matrix[rows_R]))

    def fetch(self, sources: tuple[str, ...], rows_R: np.ndarray, device: torch.device) -> Tensor:
        """Return rows of several layers as float32, `[layers, R, D]`."""
        first = self.take(sources[0], rows_R)
        x_SRD = torch.empty(len(sources), *first.shape, device=device)
        for index, layer in enumerate(sources):
            x_SRD[index].copy_(self.take(layer, rows_R) if index else first)
        return x_SRD


@dataclass(frozen=True)
class BatchPlan:
    """How an epoch is split into steps, micro-batches and blocks, and what dropout draws.

    Attributes:
        batch_size: examples of an optimiser step.
        micro_batch_rows: largest number of rows of a micro-batch.
        block_rows: largest number of rows of a block.
        hidden: H.
        dropout: fraction of the hidden units that is dropped.
        seed: of the order and of dropout.
    """

    batch_size: int
    micro_batch_rows: int
    block_rows: int
    hidden: int
    dropout: float
    seed: int


@dataclass(frozen=True)
class ProbeMicroBatch:
    """An optimiser step, or a part of one that has too many rows for memory.

    Attributes:
        start, stop: its rows in the block.
        weight: its fraction of the step's rows; the weights of a step add up to 1.
        first, last: whether it opens and closes its step.
        target_B: targets of its rows, `[B, …]`.
        mask_BH: dropout mask of the hidden units, divided by the probability of keeping one, `[B, H]`.
    """

    start: int
    stop: int
    weight: float
    first: bool
    last: bool
    target_B: Tensor
    mask_BH: Tensor


@dataclass(frozen=True)
class RowBlock:
    """Neighbouring micro-batches, and the rows of the matrices that they need, `[R]`."""

    rows_R: np.ndarray
    batches: list[ProbeMicroBatch]


def iter_blocks(examples: Examples, epoch: int, plan: BatchPlan, device: torch.device) -> Iterator[RowBlock]:
    """Yield the blocks of an epoch, in the order that seed and epoch give."""
    if examples.targets_R is None:
        raise ValueError("examples without targets cannot be trained on")
    starts_N = np.concatenate(([0], np.cumsum(examples.counts_N)))
    single_rows = len(examples.rows_R) == len(examples.counts_N)
    order_N = epoch_permutation(plan.seed, epoch, len(examples.counts_N))
    rows: list[np.ndarray] = []
    batches: list[ProbeMicroBatch] = []
    block_size = 0
    for step, begin in enumerate(range(0, len(order_N), plan.batch_size)):
        picks = order_N[begin : begin + plan.batch_size]
        step_rows = picks if single_rows else np.concatenate([np.arange(starts_N[i], starts_N[i + 1]) for i in picks])
        generator = dropout_generator(plan.seed, epoch, step)
        for low in range(0, len(step_rows), plan.micro_batch_rows):
            part_B = step_rows[low : low + plan.micro_batch_rows]
            size = len(part_B)
            if block_size and block_size + size > plan.block_rows:
                yield RowBlock(np.concatenate(rows), batches)
                rows, batches, block_size = [], [], 0
            mask_BH = torch.from_numpy(dropout_mask(generator, size, plan.hidden, plan.dropout))
            batches.append(
                ProbeMicroBatch(
                    start=block_size,
                    stop=block_size + size,
                    weight=size / len(step_rows),
                    first=low == 0,
                    last=low + size == len(step_rows),
                    target_B=torch.from_numpy(examples.targets_R[part_B]).to(device),
                    mask_BH=mask_BH.to(device).to(torch.float32).div_(1 - plan.dropout),
                )
            )
            rows.append(examples.rows_R[part_B])
            block_size += size
    yield RowBlock(np.concatenate(rows), batches)
