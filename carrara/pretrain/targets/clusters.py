"""Cluster numbers of hand-made features by k-means, one label set: what HuBERT, MusicHuBERT and MERT-v0 predict.

HuBERT (Hsu et al. 2021) starts from 39 MFCC; MERT-v0 (thesis, section 5.2) from 300 clusters of log-mel with 229 bands
and 200 clusters of chroma with 264 bins, two independent clusterings that give 60,000 joint classes at linear cost.

- `mfcc-39`, `mfcc-60`: Kaldi cepstra with slopes, at half the student's hop and every second frame, as HuBERT's.
- `log-mel-229`: natural logarithm of 229 Slaney bands above 30 Hz, FFT of 2048 (no source states MERT's FFT).
- `chroma-264`: MERT's authors' chroma from an FFT of 512, window 400 as was meant, tuning 440 Hz.
- `chroma-cqt`: 36 pitch classes folded from a CQT of seven octaves, which tells bass notes apart. Ours, and better.
- `layer`: a row of any encoder with the student's frame rate: HuBERT's and MusicHuBERT's second iteration.

The papers standardise nothing, so loudness dominates the distances of log-mel and MFCC; `standardise` divides each
dimension by its deviation over the corpus instead. Labels are found on the crop that the student hears, before
anything is done to it. Up to a gigabyte of features is clustered by full Lloyd passes, more by a pass of mini-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from carrara.core.errors import DataError, UsageError
from carrara.encoders._hub.load import load
from carrara.nn.quantize.kmeans import assign, gathered, k_means_plus_plus, lloyd, mini_batch
from carrara.nn.spectral.chroma import ChromaSTFT, fold
from carrara.nn.spectral.cqt import CQT
from carrara.nn.spectral.framing import preset
from carrara.nn.spectral.mel import Bands, MelSpectrogram
from carrara.nn.spectral.mfcc import KaldiMFCC
from carrara.pretrain.targets._base import FrameGrid, Target, TargetSettings, on_grid

MEMORY_BYTES = 2**30
SAMPLE_POINTS = 20_000
FOLDED_BINS = 36


class ClustersSettings(TargetSettings):
    """Which features are clustered and how.

    Attributes:
        feature: see the head of the file.
        encoder, layer: whose features, and which row of them, where the feature is `layer`.
        k: number of clusters.
        standardise: bring each dimension to mean 0 and deviation 1 over the corpus first.
        iterations: most Lloyd passes.
    """

    target: Literal["clusters"] = "clusters"
    feature: Literal["mfcc-39", "mfcc-60", "log-mel-229", "chroma-264", "chroma-cqt", "layer"] = "log-mel-229"
    encoder: str | None = None
    layer: int = Field(default=6, ge=0)
    k: int = Field(default=300, ge=2)
    standardise: bool = False
    iterations: int = Field(default=100, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> ClustersSettings:
        if (self.feature == "layer") != (self.encoder is not None):
            raise ValueError("encoder names whose layer is clustered, and goes with feature layer alone")
        return self


class Clusters(Target):
    """One label set: the nearest centroid of each frame's features."""

    kind = ClustersSettings
    settings: ClustersSettings
    mean_D: Tensor
    scale_D: Tensor
    centroids_KD: Tensor

    def __init__(self, settings: ClustersSettings, grid: FrameGrid) -> None:
        super().__init__(settings, grid)
        self.num_classes = (settings.k,)
        self.transform = _transform(settings, grid)
        width = self._raw(torch.zeros(1, grid.sample_rate // 4), 1).shape[-1]
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("scale_D", torch.ones(width))
        self.register_buffer("centroids_KD", torch.zeros(settings.k, width))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor], seed: int) -> dict[str, Any]:
        """Cluster the features of the crops; see the base class."""
        chunks = (self._raw(samples_BT, None).flatten(0, 1) for samples_BT in batches)
        first, rest = gathered(chunks, MEMORY_BYTES // (4 * len(self.mean_D)))
        if not first:
            raise DataError("there is no crop to cluster; give a corpus with readable audio in it")
        held_ND = torch.cat(first)
        if self.settings.standardise:
            self.mean_D = held_ND.mean(dim=0)
            # A band that never sounds has no deviation to divide by.
            self.scale_D = held_ND.std(dim=0, correction=0).clamp(min=1e-5).reciprocal()
        generator = torch.Generator().manual_seed(seed)
        drawn_N = torch.randperm(len(held_ND), generator=generator)[: max(SAMPLE_POINTS, 2 * self.settings.k)]
        start_KD = k_means_plus_plus(self._scaled(held_ND[drawn_N]), self.settings.k, generator)
        following = next(rest, None)
        if following is None:
            result = lloyd([self._scaled(held_ND)], start_KD, self.settings.iterations)
        else:
            parts = chain(held_ND.split(len(first[0])), [following], rest)
            result = mini_batch((self._scaled(part_ND) for part_ND in parts), start_KD)
        self.centroids_KD = result.centroids_KD
        return result.report()

    @torch.no_grad()
    def labels(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return the codes, int64 `[B, F, 1]`; see the base class."""
        features_BFD = self._raw(samples_BT, frames)
        codes_N = assign(self._scaled(features_BFD.flatten(0, 1)), self.centroids_KD)
        return codes_N.view(*features_BFD.shape[:2], 1)

    def _raw(self, samples_BT: Tensor, frames: int | None) -> Tensor:
        if isinstance(self.transform, KaldiMFCC):
            return self._cepstra(samples_BT, frames)
        if isinstance(self.transform, _Row):
            return self.transform(samples_BT)[:, :frames]
        return on_grid(self.transform, samples_BT, self.grid, frames)

    def _cepstra(self, samples_BT: Tensor, frames: int | None) -> Tensor:
        # Kaldi's frame i starts at its hop; half a window is between that and its middle.
        late = self.grid.centre - self.grid.sample_rate * 25 // 1000 // 2
        placed_BT = nn.functional.pad(samples_BT, (-late, 0))
        return self.transform(placed_BT)[:, ::2][:, :frames]

    def _scaled(self, features_ND: Tensor) -> Tensor:
        return (features_ND - self.mean_D) * self.scale_D if self.settings.standardise else features_ND


class _FoldedCQT(nn.Module):
    def __init__(self, grid: FrameGrid) -> None:
        super().__init__()
        self.cqt = CQT(grid.sample_rate, grid.hop, bins=7 * FOLDED_BINS, bins_per_octave=FOLDED_BINS)

    def forward(self, samples_BT: Tensor) -> Tensor:
        return fold(self.cqt(samples_BT), FOLDED_BINS, FOLDED_BINS)


class _Row(nn.Module):
    """A row of an encoder that is no part of what is fitted: it is read again from where it was read first."""

    def __init__(self, encoder: str, layer: int, grid: FrameGrid) -> None:
        super().__init__()
        found = load(encoder)
        card = found.card
        if card.frame_rate != grid.sample_rate / grid.hop or card.sample_rate != grid.sample_rate:
            raise UsageError(
                f"target clusters: {encoder} hears {card.sample_rate} Hz and gives {card.frame_rate or 0:g} frames a "
                f"second; the student wants {grid.sample_rate} and {grid.sample_rate / grid.hop:g}"
            )
        if layer > card.num_layers:
            raise UsageError(f"target clusters: {encoder} has {card.num_layers} layers, so there is no row {layer}")
        self.layer = layer
        # In a list, so that its weights do not stand in the target's own file.
        self.found = [found]

    def forward(self, samples_BT: Tensor) -> Tensor:
        return self.found[0].to(samples_BT.device)(samples_BT)[:, self.layer].float()


def _transform(settings: ClustersSettings, grid: FrameGrid) -> nn.Module:
    rate, hop = grid.sample_rate, grid.hop
    makers: dict[str, Callable[[], nn.Module]] = {
        "mfcc-39": lambda: KaldiMFCC(rate, 13, hop // 2),
        "mfcc-60": lambda: KaldiMFCC(rate, 20, hop // 2),
        "log-mel-229": lambda: MelSpectrogram(
            rate, preset("librosa", window=2048, hop=hop), Bands(229, low=30.0, high=min(8000.0, rate / 2)), "ln"
        ),
        "chroma-264": lambda: ChromaSTFT(rate, 264, preset("librosa", window=400, hop=hop, size=512)),
        "chroma-cqt": lambda: _FoldedCQT(grid),
        "layer": lambda: _Row(str(settings.encoder), settings.layer, grid),
    }
    return makers[settings.feature]()


TARGET = Clusters
