"""Mel cepstra two ways: Kaldi's, which HuBERT's first teacher clusters, and librosa's, for statistics of clips.

`KaldiMFCC` follows Kaldi's documented defaults as HuBERT's label recipe uses them [hsu2021]: 25 ms Povey windows every
10 ms without padding, each frame's mean removed, pre-emphasis 0.97, power spectrum, 23 mel bands from 20 Hz to half the
sample rate, natural logarithm, orthonormal DCT-II, lifter 22, no energy, samples nominal ±1; then first and second
regression deltas over five frames (13 → 39 numbers, 20 → 60). `MFCC` is librosa's with a range of 80 dB.

Letters: B batch, T samples, F frames, M mel bands, C coefficients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from carrara.core.errors import UsageError
from carrara.nn.spectral.framing import Framing, framing_preset, no_autocast
from carrara.nn.spectral.mel import MelBands, MelSpectrogram, log_power, to_decibels

LIFTER = 22
# Kaldi's floor of the logarithm: the spacing of single-precision numbers at 1.
FLOOR = torch.finfo(torch.float32).eps
TOP_DB = 80.0


def dct_matrix(bands: int, coefficients: int) -> Tensor:
    """Return the orthonormal DCT-II from M bands to C coefficients, `[M, C]`, in double precision.

    Raises:
        UsageError: there are more coefficients than bands.
    """
    if not 1 <= coefficients <= bands:
        raise UsageError(f"{bands} mel bands give at most {bands} cepstral coefficients, not {coefficients}")
    order_C = torch.arange(coefficients, dtype=torch.float64)
    position_M = torch.arange(bands, dtype=torch.float64) + 0.5
    cosines_MC = torch.cos(math.pi / bands * position_M[:, None] * order_C) * math.sqrt(2.0 / bands)
    cosines_MC[:, 0] = math.sqrt(1.0 / bands)
    return cosines_MC


def compute_deltas(features_BFC: Tensor) -> Tensor:
    """Return each feature's regression slope over five frames, `[B, F, C]`; the end frames are repeated outwards."""
    edged_BFC = torch.cat([features_BFC[:, :1]] * 2 + [features_BFC] + [features_BFC[:, -1:]] * 2, dim=1)
    count = features_BFC.shape[1]
    shifted = [edged_BFC[:, start : start + count] for start in range(5)]
    return (shifted[3] - shifted[1] + 2.0 * (shifted[4] - shifted[0])) / 10.0


class KaldiMFCC(nn.Module):
    """Samples `[B, T]`, nominal ±1, to Kaldi's cepstra with their deltas, `[B, F, 3 × coefficients]`."""

    dct_MC: Tensor

    def __init__(
        self, sample_rate: int = 16_000, coefficients: int = 13, hop: int | None = None, bands: int = 23
    ) -> None:
        """Prepare the transform; `hop` is in samples, 10 ms by default.

        Raises:
            UsageError: there are more coefficients than bands.
        """
        super().__init__()
        framing = framing_preset("kaldi", window=sample_rate * 25 // 1000, hop=hop or sample_rate // 100)
        self.mel = MelSpectrogram(sample_rate, framing, MelBands(bands, min_hz=20.0, scale="kaldi", norm="none"))
        lifter_C = 1.0 + LIFTER / 2 * torch.sin(torch.arange(coefficients, dtype=torch.float64) * math.pi / LIFTER)
        self.register_buffer("dct_MC", (dct_matrix(bands, coefficients) * lifter_C).float(), persistent=False)

    def forward(self, samples_BT: Tensor) -> Tensor:
        """Return cepstra, deltas and second deltas concatenated; frame i starts at sample i × hop.

        Raises:
            UsageError: the clips are empty.
        """
        with no_autocast(samples_BT):
            cepstra_BFC = log_power(self.mel(samples_BT), FLOOR) @ self.dct_MC
            deltas_BFC = compute_deltas(cepstra_BFC)
            return torch.cat([cepstra_BFC, deltas_BFC, compute_deltas(deltas_BFC)], dim=-1)


class MFCC(nn.Module):
    """Samples `[B, T]` to librosa's cepstra `[B, F, C]`: Slaney mel power in dB, at most 80 dB below its maximum."""

    dct_MC: Tensor

    def __init__(
        self, sample_rate: int = 22_050, coefficients: int = 20, bands: int = 128, framing: Framing | None = None
    ) -> None:
        """Prepare the transform; the default `framing` is librosa's: 2048 samples every 512, zeros beyond the ends.

        Raises:
            UsageError: there are more coefficients than bands.
        """
        super().__init__()
        self.mel = MelSpectrogram(sample_rate, framing or framing_preset("librosa"), MelBands(bands))
        self.register_buffer("dct_MC", dct_matrix(bands, coefficients).float(), persistent=False)

    def forward(self, samples_BT: Tensor) -> Tensor:
        """Return the coefficients of every frame; the maximum is each clip's own.

        Raises:
            UsageError: the clips are empty.
        """
        with no_autocast(samples_BT):
            return to_decibels(self.mel(samples_BT), TOP_DB) @ self.dct_MC
