"""Kernels of the constant-Q transform: their lengths, their taps, and their spectra in closed form.

Brown's transform (1991) in the convention of nnAudio's `CQT1992v2`, which MERT is trained on: Q = 1 / (2^(1/b) − 1)
cycles in each kernel, length ceil(Q × rate / frequency), periodic Hann window, unit L1 norm, then times the square root
of the length. (librosa 0.10 and later takes a Q that is larger by about 1.5 / b of itself.)

A kernel's spectrum is three Dirichlet kernels, so any stretch of it is computed directly, whatever the FFT's length.

Letters: M bins of the transform, L taps of a kernel, K frequencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from carrara.core.errors import UsageError


@dataclass(frozen=True)
class Kernels:
    """Centre frequencies in Hz (ascending) and lengths in samples of the bins' kernels, at a sample rate in Hz."""

    frequencies: tuple[float, ...]
    lengths: tuple[int, ...]
    sample_rate: int

    @property
    def reach(self) -> int:
        """Return how many samples the longest kernel extends to each side of its centre."""
        return self.lengths[0] // 2 + 1


def kernels(sample_rate: int, bins: int, bins_per_octave: int, lowest: float) -> Kernels:
    """Return the bins' frequencies and lengths.

    Raises:
        UsageError: the highest bin lies above half the sample rate.
    """
    frequencies = tuple(lowest * 2.0 ** (bin / bins_per_octave) for bin in range(bins))
    if frequencies[-1] > sample_rate / 2:
        fitting = math.floor(math.log2(sample_rate / 2 / lowest) * bins_per_octave) + 1
        raise UsageError(
            f"the highest of {bins} CQT bins is at {frequencies[-1]:.0f} Hz, above half the sample rate of "
            f"{sample_rate} Hz; take at most {fitting} bins, or a higher sample rate"
        )
    quality = 1.0 / (2.0 ** (1.0 / bins_per_octave) - 1.0)
    lengths = tuple(math.ceil(quality * sample_rate / frequency) for frequency in frequencies)
    return Kernels(frequencies, lengths, sample_rate)


def taps(known: Kernels, bin: int) -> Tensor:
    """Return one kernel's taps, `[2, L]` (real, imaginary), in double precision; tap ceil(L / 2) is its centre."""
    length = known.lengths[bin]
    step = torch.arange(length, dtype=torch.float64)
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi / length * step)
    angle = (2 * math.pi * known.frequencies[bin] / known.sample_rate) * (step - math.ceil(length / 2))
    return torch.stack([torch.cos(angle), torch.sin(angle)]) * hann * (math.sqrt(length) / hann.sum())


def response(known: Kernels, bins: range, starts: Tensor, count: int, size: int) -> Tensor:
    """Return the conjugate spectra of kernels over `count` bins of an FFT of `size`, `[M, K]` complex double.

    Args:
        known: the kernels.
        bins: which of them.
        starts: `[M]`, the first FFT bin of each stretch; negative ones are negative frequencies.
        count: FFT bins in each stretch.
        size: length of the FFT, in samples.
    """
    length_M1 = torch.tensor([known.lengths[bin] for bin in bins], dtype=torch.float64)[:, None]
    centre_M1 = torch.tensor([known.frequencies[bin] for bin in bins], dtype=torch.float64)[:, None]
    frequency_MK = (starts[:, None] + torch.arange(count)).double() / size
    # Half the angle a sample between each frequency and the kernel's own.
    half_MK = math.pi * (frequency_MK - centre_M1 / known.sample_rate)
    lobe_M1 = math.pi / length_M1
    hann_MK = 0.5 * _dirichlet(half_MK, length_M1) + 0j
    for side in (-1, 1):
        turn_M1 = torch.polar(torch.ones_like(lobe_M1), side * lobe_M1)
        hann_MK += 0.25 * turn_M1 * _dirichlet(half_MK + side * lobe_M1, length_M1)
    delay_M1 = length_M1 - 1 - 2 * torch.ceil(length_M1 / 2)
    # The taps' weights sum to half the length, which the unit L1 norm divides by.
    return torch.polar(2.0 / length_M1.sqrt().expand_as(half_MK), half_MK * delay_M1) * hann_MK.conj()


def _dirichlet(half: Tensor, length: Tensor) -> Tensor:
    """Return sin(length × half) / sin(half), with its limit where the denominator vanishes."""
    below = torch.sin(half)
    vanishing = below.abs() < 1e-12
    return torch.where(vanishing, length, torch.sin(length * half) / torch.where(vanishing, 1.0, below))
