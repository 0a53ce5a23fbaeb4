"""Codes of log-mel frames without a neural codec: residual k-means, random projection, MuQ's Mel-RVQ.

Each is fitted on crops of the corpus and gives `[B, F, Q]` codes on the student's frames; see codes.py.

Letters: B batch, T samples, F frames, N = B·F points, D feature dimensions, Q codebooks.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.errors import DataError
from carrara.encoders._frame_encoder import FrameGrid
from carrara.nn.quantize.kmeans import take_chunks
from carrara.nn.quantize.random_projection import ProjectedRVQ, RandomProjection
from carrara.nn.quantize.residual_quantizer import codebook_usage, encode_rvq, fit_rvq
from carrara.nn.spectral.cqt_target import MIN_STD, compute_bin_statistics
from carrara.nn.spectral.framing import framing_preset
from carrara.nn.spectral.mel import MelBands, MelSpectrogram
from carrara.pretrain.targets._base import features_on_grid

MEMORY_BYTES = 2**30
# MusicFM and MuQ stack frames of 10 ms to one frame of the student.
STACKED_HZ, STACKED_BANDS = 100, 128


def log_mel_229(grid: FrameGrid) -> MelSpectrogram:
    """Return MERT-v0's spectrogram: the logarithm of 229 Slaney bands from 30 Hz to 8 kHz, FFT of 2048."""
    bands = MelBands(229, min_hz=30.0, max_hz=min(8000.0, grid.sample_rate / 2))
    return MelSpectrogram(grid.sample_rate, framing_preset("librosa", window=2048, hop=grid.hop), bands, "ln")


class ResidualKMeans(nn.Module):
    """Log-mel frames (229 bands, as in MERT-v0), quantised by one k-means codebook after another."""

    books_QKD: Tensor

    def __init__(self, grid: FrameGrid, num_codebooks: int, codebook_size: int) -> None:
        super().__init__()
        self.grid, self.mel = grid, log_mel_229(grid)
        self.register_buffer("books_QKD", torch.zeros(num_codebooks, codebook_size, 229))

    def fit(self, batches: Iterable[Tensor], seed: int) -> dict[str, Any]:
        """Cluster the frames of the crops; see `Target.fit`."""
        num_codebooks, codebook_size, dim = self.books_QKD.shape
        chunks = (features_on_grid(self.mel, samples_BT, self.grid, None).flatten(0, 1) for samples_BT in batches)
        generator = torch.Generator().manual_seed(seed)
        self.books_QKD, report = fit_rvq(chunks, num_codebooks, codebook_size, generator, MEMORY_BYTES // (4 * dim))
        return report

    def encode(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return the codes, int64 `[B, F, Q]`."""
        features_BFD = features_on_grid(self.mel, samples_BT, self.grid, frames)
        return encode_rvq(features_BFD.flatten(0, 1), self.books_QKD).view(*features_BFD.shape[:2], -1)


class StackedMelCodes(nn.Module):
    """Stacked log-mel frames (128 bands in decibels), standardised over the corpus, quantised by angle.

    At 24 kHz and 25 frames per second that is 512 dimensions per frame, as in MusicFM and MuQ; at 50 frames it is 256.
    """

    mean_D: Tensor
    deviation_D: Tensor

    def __init__(self, grid: FrameGrid, num_codebooks: int, codebook_size: int, steps: int) -> None:
        """Prepare features and quantiser; `steps` are its training steps, 0 for a random one that is not trained."""
        super().__init__()
        self.grid, self.steps, self.codebook_size = grid, steps, codebook_size
        ideal = max(round(grid.hop * STACKED_HZ / grid.sample_rate), 1)
        self.stack = max(count for count in range(1, ideal + 1) if grid.hop % count == 0)
        framing = framing_preset("librosa", window=2048, hop=grid.hop // self.stack)
        bands = MelBands(STACKED_BANDS, scale="htk", norm="none")
        self.mel = MelSpectrogram(grid.sample_rate, framing, bands, "db")
        dim = self.stack * bands.num_bands
        self.register_buffer("mean_D", torch.zeros(dim))
        self.register_buffer("deviation_D", torch.ones(dim))
        self.quantiser = (ProjectedRVQ if steps else RandomProjection)(dim, num_codebooks, codebook_size)

    def fit(self, batches: Iterable[Tensor], seed: int) -> dict[str, Any]:
        """Standardise the features, initialise the quantiser, and train it if it is trainable; see `Target.fit`."""
        chunks = (self.features(samples_BT, None).flatten(0, 1) for samples_BT in batches)
        first, rest = take_chunks(chunks, MEMORY_BYTES // (4 * len(self.mean_D)))
        if not first:
            raise DataError("there is no crop to measure; give a corpus with readable audio in it")
        points_ND = torch.cat(first)
        # Points beyond the memory limit count in the statistics only.
        statistics = compute_bin_statistics(chain([points_ND], rest))
        self.mean_D = statistics.mean_M.to(points_ND.device)
        self.deviation_D = statistics.std_M.clamp(min=MIN_STD).to(points_ND.device)
        generator = torch.Generator().manual_seed(seed)
        self.quantiser.init_weights(generator)
        points_ND = (points_ND - self.mean_D) / self.deviation_D
        report: dict[str, Any] = {"points": len(points_ND), "dimensions": len(self.mean_D)}
        if isinstance(self.quantiser, ProjectedRVQ):
            report["losses"] = self.quantiser.fit(points_ND, self.steps, generator)
        codes_NQ = self.quantiser.encode(points_ND, len(self.quantiser.codes_QKP))
        return report | {"usage": codebook_usage(codes_NQ, self.codebook_size)}

    def encode(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return the codes, int64 `[B, F, Q]`."""
        features_BFD = (self.features(samples_BT, frames) - self.mean_D) / self.deviation_D
        codes_NQ = self.quantiser.encode(features_BFD.flatten(0, 1), len(self.quantiser.codes_QKP))
        return codes_NQ.view(*features_BFD.shape[:2], -1)

    def features(self, samples_BT: Tensor, frames: int | None) -> Tensor:
        """Return the stacked frames, placed evenly around the student's frame centres, `[B, F, D]`."""
        hop, stack = self.grid.hop // self.stack, self.stack
        frames = samples_BT.shape[1] // self.grid.hop if frames is None else frames
        # A hop of zeros in front keeps the centre of the first short frame inside the clip.
        centre = self.grid.hop + self.grid.centre - (stack - 1) * hop // 2
        short_grid = FrameGrid(self.grid.sample_rate, hop, centre)
        padded_BT = functional.pad(samples_BT, (self.grid.hop, 0))
        short_BFM = features_on_grid(self.mel, padded_BT, short_grid, frames * stack)
        frames = short_BFM.shape[1] // stack
        return short_BFM[:, : frames * stack].reshape(len(samples_BT), frames, -1)
