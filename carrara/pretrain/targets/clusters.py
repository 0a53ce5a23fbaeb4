"""Cluster numbers of hand-crafted features by k-means, one codebook: the labels of HuBERT, MusicHuBERT and MERT-v0.

HuBERT [hsu2021] starts from 39 MFCCs. MERT-v0 [yuan2023thesis §5.2] uses 300 clusters of a log-mel spectrum with 229
bands and 200 clusters of a chromagram with 264 bins: two independent clusterings with 60,000 joint classes at the cost
of 500.

- `mfcc-39`, `mfcc-60`: Kaldi MFCCs with deltas, at half the student's hop, every second frame, as in HuBERT.
- `log-mel-229`: natural logarithm of 229 Slaney bands above 30 Hz, FFT of 2048 (no source states MERT's FFT size).
- `chroma-264`: the chromagram of MERT's authors, from an FFT of 512, with the window of 400 that they intended, tuning
  440 Hz.
- `chroma-cqt`: 36 pitch classes folded from a CQT of seven octaves, which separates bass notes. Our own.
- `onsets`: how much each of the 229 bands of `log-mel-229` has risen since the frame before [boeck2012]. Our own.
- `tempogram`: the autocorrelation of the mean rise, within a Hann window of 4 s around each frame, for lags up to 2 s,
  over that at lag 0 [grosche2010]; beyond a crop's ends there are no onsets. Our own.
- `layer`: a layer of any encoder with the student's frame rate: the second iteration of HuBERT and MusicHuBERT.

As in the papers, nothing is standardised, so loudness dominates the distances of log-mel and MFCC. Labels are computed
from the crop before mixup and augmentation. Up to 1 GiB of features is clustered by full Lloyd passes, more by one pass
of mini-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.errors import DataError, UsageError
from carrara.encoders._frame_encoder import FrameGrid
from carrara.encoders._hub.load import load
from carrara.nn.quantize.kmeans import fit_lloyd, fit_mini_batch, kmeans_plusplus, nearest_centroids, take_chunks
from carrara.nn.spectral.chroma import ChromaSTFT, fold_to_chroma
from carrara.nn.spectral.cqt import CQT
from carrara.nn.spectral.framing import framing_preset
from carrara.nn.spectral.mfcc import KaldiMFCC
from carrara.pretrain.targets._base import Target, TargetSettings, features_on_grid
from carrara.pretrain.targets._mel_codes import log_mel_229

MEMORY_BYTES = 2**30
START_POINTS = 20_000
BINS_PER_OCTAVE, OCTAVES = 36, 7
TEMPOGRAM_SECONDS = 4.0
TINY_STRENGTH = 1e-12


class _ClustersSettings(TargetSettings):
    """Which features are clustered.

    Attributes:
        feature: see the docstring of the file.
        encoder, layer: for the feature `layer`, the encoder and the number of its layer.
        k: number of clusters.
    """

    target: Literal["clusters"] = "clusters"
    feature: Literal[
        "mfcc-39", "mfcc-60", "log-mel-229", "chroma-264", "chroma-cqt", "onsets", "tempogram", "layer"
    ] = "log-mel-229"
    encoder: str | None = None
    layer: int = Field(default=6, ge=0)
    k: int = Field(default=300, ge=2)

    @model_validator(mode="after")
    def _check_encoder(self) -> _ClustersSettings:
        if (self.feature == "layer") != (self.encoder is not None):
            raise ValueError("feature layer needs encoder=NAME, the others encoder=null")
        return self


class _Clusters(Target):
    """Labels each frame with the centroid nearest to its features."""

    settings_type = _ClustersSettings
    settings: _ClustersSettings
    centroids_KD: Tensor

    def __init__(self, settings: _ClustersSettings, grid: FrameGrid) -> None:
        super().__init__(settings, grid)
        self.num_classes = (settings.k,)
        self.transform = _transform(settings, grid)
        dim = self.features(torch.zeros(1, grid.sample_rate // 4), 1).shape[-1]
        self.register_buffer("centroids_KD", torch.zeros(settings.k, dim))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor], seed: int) -> dict[str, Any]:
        """Cluster the features of the crops; see the base class."""
        k, dim = self.centroids_KD.shape
        chunks = (self.features(samples_BT, None).flatten(0, 1) for samples_BT in batches)
        first, rest = take_chunks(chunks, MEMORY_BYTES // (4 * dim))
        if not first:
            raise DataError("there is no crop to cluster; give a corpus with readable audio in it")
        points_ND = torch.cat(first)
        generator = torch.Generator().manual_seed(seed)
        drawn_N = torch.randperm(len(points_ND), generator=generator)[: max(START_POINTS, 2 * k)]
        start_KD = kmeans_plusplus(points_ND[drawn_N], k, generator)
        next_chunk = next(rest, None)
        if next_chunk is None:
            result = fit_lloyd([points_ND], start_KD)
        else:
            result = fit_mini_batch(chain(points_ND.split(len(first[0])), [next_chunk], rest), start_KD)
        self.centroids_KD = result.centroids_KD
        return result.report()

    @torch.no_grad()
    def labels(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return the cluster numbers, int64 `[B, F, 1]`; see the base class."""
        features_BFD = self.features(samples_BT, frames)
        codes_N = nearest_centroids(features_BFD.flatten(0, 1), self.centroids_KD)
        return codes_N.view(*features_BFD.shape[:2], 1)

    def features(self, samples_BT: Tensor, frames: int | None) -> Tensor:
        """Return the features on the student's frames, `[B, F, D]`; `frames` as in `features_on_grid`."""
        if isinstance(self.transform, KaldiMFCC):
            # Kaldi's frame i begins at sample i × hop; its centre is half a window of 25 ms later.
            shift = self.grid.centre - self.grid.sample_rate * 25 // 1000 // 2
            return self.transform(functional.pad(samples_BT, (-shift, 0)))[:, ::2][:, :frames]
        if isinstance(self.transform, _EncoderLayer):
            return self.transform(samples_BT)[:, :frames]
        return features_on_grid(self.transform, samples_BT, self.grid, frames)


class _ChromaCQT(nn.Module):
    def __init__(self, grid: FrameGrid) -> None:
        super().__init__()
        # In double precision, because each frame is divided by its maximum: in a silent frame that is the rounding
        # of louder ones, which depends on the number of threads.
        bins = OCTAVES * BINS_PER_OCTAVE
        self.cqt = CQT(grid.sample_rate, grid.hop, bins=bins, bins_per_octave=BINS_PER_OCTAVE, double_long=True)

    def forward(self, samples_BT: Tensor) -> Tensor:
        return fold_to_chroma(self.cqt(samples_BT), BINS_PER_OCTAVE, BINS_PER_OCTAVE)


class _Onsets(nn.Module):
    def __init__(self, grid: FrameGrid) -> None:
        super().__init__()
        self.mel = log_mel_229(grid)

    def forward(self, samples_BT: Tensor) -> Tensor:
        return functional.pad(self.mel(samples_BT).diff(dim=1), (0, 0, 1, 0)).clamp(min=0)


class _Tempogram(nn.Module):
    """`W` frames of a window, `L` lags from 1 to half of it."""

    window_W: Tensor

    def __init__(self, grid: FrameGrid) -> None:
        super().__init__()
        self.onsets = _Onsets(grid)
        frames = round(TEMPOGRAM_SECONDS * grid.sample_rate / grid.hop)
        self.register_buffer("window_W", torch.hann_window(frames), persistent=False)

    def forward(self, samples_BT: Tensor) -> Tensor:
        strength_BF = self.onsets(samples_BT).mean(-1)
        width = len(self.window_W)
        padded_BF = functional.pad(strength_BF, (width // 2, width - width // 2 - 1))
        spectrum_BFK = torch.fft.rfft(padded_BF.unfold(-1, width, 1) * self.window_W, n=2 * width)
        correlation_BFW = torch.fft.irfft(spectrum_BFK.abs().square(), n=2 * width)
        return correlation_BFW[..., 1 : width // 2 + 1] / correlation_BFW[..., :1].clamp(min=TINY_STRENGTH)


class _EncoderLayer(nn.Module):
    """A layer of an encoder; the encoder's weights are loaded from its own folder, never saved with the target."""

    def __init__(self, name: str, layer: int, grid: FrameGrid) -> None:
        super().__init__()
        encoder = load(name)
        card = encoder.card
        if card.frame_rate != grid.sample_rate / grid.hop or card.sample_rate != grid.sample_rate:
            raise UsageError(
                f"target clusters: {name} takes {card.sample_rate} Hz and gives {card.frame_rate or 0:g} frames per "
                f"second, the student needs {grid.sample_rate} and {grid.sample_rate / grid.hop:g}; choose another "
                "with --set targets.NAME.encoder=ENCODER"
            )
        if layer > card.num_layers:
            raise UsageError(
                f"target clusters: {name} has {card.num_layers} layers, so layer {layer} does not exist; give "
                f"--set targets.layer.layer={card.num_layers}"
            )
        self.layer = layer
        # In a list, so that the encoder is not part of this module's state_dict.
        self.encoders = [encoder]

    def forward(self, samples_BT: Tensor) -> Tensor:
        return self.encoders[0].to(samples_BT.device)(samples_BT)[:, self.layer].float()


def _transform(settings: _ClustersSettings, grid: FrameGrid) -> nn.Module:
    rate, hop = grid.sample_rate, grid.hop
    transforms: dict[str, Callable[[], nn.Module]] = {
        "mfcc-39": lambda: KaldiMFCC(rate, 13, hop // 2),
        "mfcc-60": lambda: KaldiMFCC(rate, 20, hop // 2),
        "log-mel-229": lambda: log_mel_229(grid),
        "chroma-264": lambda: ChromaSTFT(rate, 264, framing_preset("librosa", window=400, hop=hop, fft_size=512)),
        "chroma-cqt": lambda: _ChromaCQT(grid),
        "onsets": lambda: _Onsets(grid),
        "tempogram": lambda: _Tempogram(grid),
        "layer": lambda: _EncoderLayer(str(settings.encoder), settings.layer, grid),
    }
    return transforms[settings.feature]()


TARGET = _Clusters
