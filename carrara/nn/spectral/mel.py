"""Mel spectrograms: filter banks on the Slaney, HTK and Kaldi scales, and the compressions that models expect.

Which scale, which normalisation of the triangles and which logarithm decide whether published weights work: MAEST,
MusiCNN and EffNet-Discogs want Slaney bands of equal area and log10(1 + 10000 x), MULE wants HTK bands of unit L2 norm,
HuBERT's MFCC wants Kaldi's triangles, which are straight on the mel axis instead of in Hz.

Letters: B batch, T samples, F frames, K frequencies of the FFT, M bands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from carrara.core.errors import UsageError
from carrara.nn.spectral.framing import Framing, Spectrum, float32

Scale = Literal["slaney", "htk", "kaldi"]
Norm = Literal["slaney", "l2", "none"]


@dataclass(frozen=True)
class Bands:
    """A mel filter bank.

    Attributes:
        count: number of bands.
        low: lower edge of the first band, in Hz.
        high: upper edge of the last, in Hz; none for half the sample rate.
        scale: "slaney" (linear below 1 kHz), "htk" (logarithmic throughout), "kaldi" (htk, triangles straight in mel).
        norm: of each triangle: "slaney" (area 1 in Hz), "l2" (unit L2 norm over the FFT's bins), "none" (peak 1).
    """

    count: int
    low: float = 0.0
    high: float | None = None
    scale: Scale = "slaney"
    norm: Norm = "slaney"


def hertz_to_mel(hertz: Tensor, scale: Scale) -> Tensor:
    """Return frequencies in mel; Slaney's scale is linear up to 1000 Hz = 15 mel, then 27 mel for each factor 6.4."""
    if scale != "slaney":
        return 1127.0 * torch.log1p(hertz / 700.0)
    high = 15.0 + 27.0 * torch.log(hertz.clamp(min=1000.0) / 1000.0) / math.log(6.4)
    return torch.where(hertz < 1000.0, hertz * 3.0 / 200.0, high)


def mel_to_hertz(mel: Tensor, scale: Scale) -> Tensor:
    """Return the frequencies in Hz of mel values; the inverse of `hertz_to_mel`."""
    if scale != "slaney":
        return 700.0 * torch.expm1(mel / 1127.0)
    high = 1000.0 * torch.exp(math.log(6.4) * (mel.clamp(min=15.0) - 15.0) / 27.0)
    return torch.where(mel < 15.0, mel * 200.0 / 3.0, high)


def bank(bands: Bands, sample_rate: int, size: int) -> Tensor:
    """Return the triangles over the bins of an FFT of that size, `[K, M]`, in double precision.

    Raises:
        UsageError: the bands' edges do not lie between 0 and half the sample rate.
    """
    high = sample_rate / 2 if bands.high is None else bands.high
    if not 0 <= bands.low < high <= sample_rate / 2:
        raise UsageError(
            f"mel bands from {bands.low:g} to {high:g} Hz do not fit a sample rate of {sample_rate} Hz; "
            f"keep them between 0 and {sample_rate / 2:g} Hz"
        )
    ends = hertz_to_mel(torch.tensor([bands.low, high], dtype=torch.float64), bands.scale)
    edges = torch.linspace(ends[0], ends[1], bands.count + 2, dtype=torch.float64)
    bins_K = torch.arange(size // 2 + 1, dtype=torch.float64) * (sample_rate / size)
    if bands.scale == "kaldi":
        bins_K = hertz_to_mel(bins_K, "kaldi")
    else:
        edges = mel_to_hertz(edges, bands.scale)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising_KM = (bins_K[:, None] - left) / (centre - left)
    falling_KM = (right - bins_K[:, None]) / (right - centre)
    triangles_KM = torch.minimum(rising_KM, falling_KM).clamp(min=0.0)
    if bands.norm == "slaney":
        return triangles_KM * (2.0 / (right - left))
    if bands.norm == "l2":
        return nn.functional.normalize(triangles_KM, dim=0)
    return triangles_KM


def as_it_is(power: Tensor) -> Tensor:
    """Return the power itself."""
    return power


def natural_log(power: Tensor, floor: float = 1e-10) -> Tensor:
    """Return the natural logarithm of a power, which counts as at least `floor`."""
    return power.clamp(min=floor).log()


def log10_10000(power: Tensor) -> Tensor:
    """Return log10(1 + 10000 x), the compression of Essentia's and MULE's models."""
    return (1.0 + 10000.0 * power).log10()


def decibels(power_BFM: Tensor, reach: float | None = None, floor: float = 1e-10) -> Tensor:
    """Return decibels against 1, cut off `reach` dB below each clip's own loudest value where `reach` is given."""
    level_BFM = 10.0 * power_BFM.clamp(min=floor).log10()
    if reach is None:
        return level_BFM
    return torch.maximum(level_BFM, level_BFM.amax(dim=(-2, -1), keepdim=True) - reach)


COMPRESSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": as_it_is,
    "ln": natural_log,
    "db": decibels,
    "log10": log10_10000,
}


class MelSpectrogram(nn.Module):
    """Samples `[B, T]` to mel bands `[B, F, M]`, in single precision under autocast too."""

    bank_KM: Tensor

    def __init__(
        self,
        sample_rate: int,
        framing: Framing,
        bands: Bands,
        compression: Literal["none", "ln", "db", "log10"] = "none",
    ) -> None:
        """Prepare the window and the filter bank.

        Raises:
            UsageError: the bands do not fit the sample rate.
        """
        super().__init__()
        self.spectrum = Spectrum(framing)
        self.compress = COMPRESSIONS[compression]
        self.register_buffer("bank_KM", bank(bands, sample_rate, framing.size).float(), persistent=False)

    def forward(self, samples_BT: Tensor) -> Tensor:
        """Return the compressed power in each band, `[B, F, M]`.

        Raises:
            UsageError: the clips are empty.
        """
        with float32(samples_BT):
            return self.compress(self.spectrum(samples_BT, self.bank_KM))
