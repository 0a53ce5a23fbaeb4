"""Augmentations of the student's crops that keep pitch and time, so that labels of the clean crop stay valid.

Gain, polarity, a spectral tilt (as of another room or microphone) and white noise, drawn from (seed, epoch, item).
Ours: no published recipe of this family has them; MERT's one augmentation is in mixup.py.

Letters: B batch, T samples, K frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from carrara.pretrain.recipes._base import AugmentSettings

# The tilt leaves this frequency unchanged.
PIVOT_HZ = 1000.0
LOWEST_HZ = 20.0
# Appended to a crop's (seed, epoch, item), so that these draws differ from others of the same crop.
DRAW = 4


def augment_crops(
    samples_BT: Tensor, draws_B: Sequence[Sequence[int]], settings: AugmentSettings, sample_rate: int
) -> Tensor:
    """Return augmented copies of the crops.

    Args:
        samples_BT: crops.
        draws_B: (seed, epoch, item) of each crop, which determine its draws.
        settings: largest changes.
        sample_rate: in Hz.
    """
    if settings == AugmentSettings():
        return samples_BT
    augmented = []
    for clip_T, draw in zip(samples_BT, draws_B):
        generator = np.random.default_rng([*draw, DRAW])
        # All are drawn whether used or not, so that turning one on leaves the others' draws as they were.
        gain, tilt = generator.uniform(-1, 1, 2)
        flip, noise_fraction = generator.random(2)
        noise_seed = int(generator.integers(2**31))
        factor = 10 ** (gain * settings.gain_db / 20)
        clip_T = clip_T * (-factor if flip < settings.polarity else factor)
        if settings.tilt_db:
            clip_T = tilt_spectrum(clip_T, tilt * settings.tilt_db, sample_rate)
        if settings.noise_db is not None:
            level = clip_T.square().mean().sqrt() * 10 ** (-(settings.noise_db + 20 * noise_fraction) / 20)
            noise_T = torch.randn(len(clip_T), generator=torch.Generator().manual_seed(noise_seed))
            clip_T = clip_T + level * noise_T.to(clip_T.device)
        augmented.append(clip_T)
    return torch.stack(augmented)


def tilt_spectrum(clip_T: Tensor, decibels: float, sample_rate: int) -> Tensor:
    """Return the clip with its spectrum tilted about 1 kHz, by `decibels` an octave."""
    hertz_K = torch.fft.rfftfreq(len(clip_T), 1 / sample_rate, device=clip_T.device).clamp(min=LOWEST_HZ)
    factors_K = 10 ** (decibels * torch.log2(hertz_K / PIVOT_HZ) / 20)
    return torch.fft.irfft(torch.fft.rfft(clip_T) * factors_K, len(clip_T))
