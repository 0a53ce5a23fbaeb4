"""Mel spectrograms: filter banks on the Slaney, HTK and Kaldi scales, and the compressions that models expect.

Which scale, which normalization of the triangles and which logarithm decide whether published weights work: MAEST,
MusiCNN and EffNet-Discogs need Slaney bands of equal area and log10(1 + 10000 x), MULE needs HTK bands of unit L2 norm,
HuBERT's MFCC needs Kaldi's triangles, which are straight on the mel axis instead of in Hz.

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
from carrara.nn.spectral.framing import Framing, Spectrum, no_autocast

Scale = Literal["slaney", "htk", "kaldi"]
Norm = Literal["slaney", "l2", "none"]


@dataclass(frozen=True)
class MelBands:
    """A mel filter bank.

    Attributes:
        num_bands: number of bands.
        min_hz: lower edge of the first band.
        max_hz: upper edge of the last band; None means half the sample rate.
        scale: "slaney" (linear below 1 kHz), "htk" (logarithmic throughout), "kaldi" (htk, triangles straight in mel).
        norm: of each triangle: "slaney" (area 1 in Hz), "l2" (unit L2 norm over the FFT's bins), "none" (peak 1).
    """

    num_bands: int
    min_hz: float = 0.0
    max_hz: float | None = None
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


def mel_filter_bank(bands: MelBands, sample_rate: int, fft_size: int) -> Tensor:
    """Return the triangles over the bins of an FFT, `[K, M]`, in double precision.

    Raises:
        UsageError: the bands' edges do not lie between 0 and half the sample rate.
    """
    max_hz = sample_rate / 2 if bands.max_hz is None else bands.max_hz
    if not 0 <= bands.min_hz < max_hz <= sample_rate / 2:
        raise UsageError(
            f"mel bands from {bands.min_hz:g} to {max_hz:g} Hz do not fit a sample rate of {sample_rate} Hz; "
            f"keep them between 0 and {sample_rate / 2:g} Hz"
        )
    ends = hertz_to_mel(torch.tensor([bands.min_hz, max_hz], dtype=torch.float64), bands.scale)
    edges = torch.linspace(ends[0], ends[1], bands.num_bands + 2, dtype=torch.float64)
    bins_K = torch.arange(fft_size // 2 + 1, dtype=torch.float64) * (sample_rate / fft_size)
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


def log_power(power: Tensor, floor: float = 1e-10) -> Tensor:
    """Return the natural logarithm of power, which is raised to at least `floor`."""
    return power.clamp(min=floor).log()


def to_decibels(power_BFM: Tensor, top_db: float | None = None, floor: float = 1e-10) -> Tensor:
    """Return decibels against 1; with `top_db` not lower than that below each clip's own maximum."""
    level_BFM = 10.0 * power_BFM.clamp(min=floor).log10()
    if top_db is None:
        return level_BFM
    return torch.maximum(level_BFM, level_BFM.amax(dim=(-2, -1), keepdim=True) - top_db)


def log10_compress(power: Tensor) -> Tensor:
    """Return log10(1 + 10000 x), the compression of Essentia's and MULE's models."""
    return (1.0 + 10000.0 * power).log10()


_COMPRESSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda power: power,
    "ln": log_power,
    "db": to_decibels,
    "log10": log10_compress,
}


class MelSpectrogram(nn.Module):
    """Samples `[B, T]` to mel bands `[B, F, M]`, in single precision under autocast too."""

    bank_KM: Tensor

    def __init__(
        self,
        sample_rate: int,
        framing: Framing,
        bands: MelBands,
        compression: Literal["none", "ln", "db", "log10"] = "none",
        persistent: bool = False,
    ) -> None:
        """Prepare the window and the filter bank.

        Args:
            sample_rate: of the samples, in Hz.
            framing: how they are split into frames.
            bands: the filter bank.
            compression: what is applied to the power in each band.
            persistent: whether window and filter bank are part of the weights.

        Raises:
            UsageError: the bands do not fit the sample rate.
        """
        super().__init__()
        self.spectrum = Spectrum(framing, persistent)
        self.compression = compression
        bank_KM = mel_filter_bank(bands, sample_rate, framing.fft_size).float()
        self.register_buffer("bank_KM", bank_KM, persistent=persistent)

    def forward(self, samples_BT: Tensor) -> Tensor:
        """Return the compressed power in each band, `[B, F, M]`.

        Raises:
            UsageError: the clips are empty.
        """
        with no_autocast(samples_BT):
            return _COMPRESSIONS[self.compression](self.spectrum(samples_BT, self.bank_KM))
