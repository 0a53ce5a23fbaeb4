"""Codes of log-mel frames, made without any network: residual k-means, random projection, MuQ's Mel-RVQ.

Each is fitted on crops of the corpus and gives `[B, F, Q]` codes on the student's frames; see codes.py.

Letters: B batch, T samples, F frames, N = B·F points, D feature dimensions, Q books.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.errors import DataError
from carrara.nn.quantize.kmeans import gathered
from carrara.nn.quantize.random_projection import ProjectedResidual, RandomProjection
from carrara.nn.quantize.residual_quantizer import encode, fit, usage
from carrara.nn.spectral.cqt_target import LEAST_DEVIATION, statistics
from carrara.nn.spectral.framing import preset
from carrara.nn.spectral.mel import Bands, MelSpectrogram
from carrara.pretrain.targets._base import FrameGrid, on_grid

MEMORY_BYTES = 2**30
# MusicFM's and MuQ's frames are 10 ms apart, and as many of them are stacked as make one of the student's.
STACKED_HERTZ, STACKED_BANDS = 100, 128


class ResidualKMeans(nn.Module):
    """Log-mel frames (229 bands, as MERT-v0's), quantised book after book by k-means."""

    books_QKD: Tensor

    def __init__(self, grid: FrameGrid, books: int, size: int, iterations: int) -> None:
        super().__init__()
        self.grid, self.iterations = grid, iterations
        framing = preset("librosa", window=2048, hop=grid.hop)
        bands = Bands(229, low=30.0, high=min(8000.0, grid.sample_rate / 2))
        self.mel = MelSpectrogram(grid.sample_rate, framing, bands, "ln")
        self.register_buffer("books_QKD", torch.zeros(books, size, bands.count))

    def fit(self, batches: Iterable[Tensor], seed: int) -> dict[str, Any]:
        """Cluster the frames of the crops; see `Target.fit`."""
        books, size, width = self.books_QKD.shape
        chunks = (on_grid(self.mel, samples_BT, self.grid, None).flatten(0, 1) for samples_BT in batches)
        generator = torch.Generator().manual_seed(seed)
        memory = MEMORY_BYTES // (4 * width)
        self.books_QKD, report = fit(chunks, books, size, generator, memory, self.iterations)
        return report

    def encode(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return the codes, int64 `[B, F, Q]`."""
        features_BFD = on_grid(self.mel, samples_BT, self.grid, frames)
        return encode(features_BFD.flatten(0, 1), self.books_QKD).view(*features_BFD.shape[:2], -1)


class Stacked(nn.Module):
    """Stacked log-mel frames (128 bands in decibels), standardised over the corpus, into a quantiser by angle.

    At 24 kHz and 25 frames a second that is MusicFM's and MuQ's 512 numbers a frame; at 50 frames it is 256.
    """

    mean_D: Tensor
    deviation_D: Tensor

    def __init__(self, grid: FrameGrid, books: int, size: int, steps: int) -> None:
        """Prepare the features; `steps` of learning, 0 for a quantiser that stays as it is drawn."""
        super().__init__()
        self.grid, self.steps, self.size = grid, steps, size
        wanted = max(round(grid.hop * STACKED_HERTZ / grid.sample_rate), 1)
        self.stack = max(count for count in range(1, wanted + 1) if grid.hop % count == 0)
        framing = preset("librosa", window=2048, hop=grid.hop // self.stack)
        bands = Bands(STACKED_BANDS, scale="htk", norm="none")
        self.mel = MelSpectrogram(grid.sample_rate, framing, bands, "db")
        width = self.stack * bands.count
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("deviation_D", torch.ones(width))
        kind = ProjectedResidual if steps else RandomProjection
        self.quantiser = kind(width, books, size)

    def fit(self, batches: Iterable[Tensor], seed: int) -> dict[str, Any]:
        """Measure the features, draw the quantiser, and teach it if it can learn; see `Target.fit`."""
        chunks = (self.features(samples_BT, None).flatten(0, 1) for samples_BT in batches)
        first, rest = gathered(chunks, MEMORY_BYTES // (4 * len(self.mean_D)))
        if not first:
            raise DataError("there is no crop to measure; give a corpus with readable audio in it")
        held_ND = torch.cat(first)
        # What does not fit in memory is counted in the statistics, and nothing is learnt from it.
        found = statistics(chain([held_ND], rest))
        self.mean_D = found.mean_M.to(held_ND.device)
        self.deviation_D = found.deviation_M.clamp(min=LEAST_DEVIATION).to(held_ND.device)
        generator = torch.Generator().manual_seed(seed)
        self.quantiser.draw(generator)
        points_ND = (held_ND - self.mean_D) / self.deviation_D
        report: dict[str, Any] = {"points": len(points_ND), "dimensions": len(self.mean_D)}
        if isinstance(self.quantiser, ProjectedResidual):
            report["losses"] = self.quantiser.fit(points_ND, self.steps, generator)
        books = len(self.quantiser.codes_QKP)
        return report | {"usage": usage(self.quantiser.encode(points_ND, books), self.size)}

    def encode(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return the codes, int64 `[B, F, Q]`."""
        features_BFD = (self.features(samples_BT, frames) - self.mean_D) / self.deviation_D
        codes_NQ = self.quantiser.encode(features_BFD.flatten(0, 1), len(self.quantiser.codes_QKP))
        return codes_NQ.view(*features_BFD.shape[:2], -1)

    def features(self, samples_BT: Tensor, frames: int | None) -> Tensor:
        """Return the stacked frames, evenly around the middles of the student's, `[B, F, D]`."""
        hop, stack = self.grid.hop // self.stack, self.stack
        frames = samples_BT.shape[1] // self.grid.hop if frames is None else frames
        # A hop of silence in front keeps the middle of the first small frame inside the clip.
        first = self.grid.hop + self.grid.centre - (stack - 1) * hop // 2
        small_grid = FrameGrid(self.grid.sample_rate, hop, first)
        small_BFM = on_grid(self.mel, functional.pad(samples_BT, (self.grid.hop, 0)), small_grid, frames * stack)
        whole = small_BFM.shape[1] // stack
        return small_BFM[:, : whole * stack].reshape(len(samples_BT), whole, -1)
