"""Music augmentations of what the student hears; what it must predict is of the clean crop.

Only what leaves pitch and time where they are, since labels stand for pitches at times: gain, polarity, a spectral tilt
(as of another room or microphone), and white noise. Every draw comes from the crop's own (seed, epoch, item). None of
it is in a published recipe of this family; MERT's one augmentation is in mixup.py. SpecAugment's channel masking is one
of the masking variants (masks.py).

Letters: B batch, T samples, K frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from carrara.pretrain.recipes._base import AugmentSettings

# A tilt turns about this frequency, which it leaves as it is.
PIVOT_HZ = 1000.0
LOWEST_HZ = 20.0


def augmented(
    samples_BT: Tensor, draws_B: Sequence[Sequence[int]], settings: AugmentSettings, sample_rate: int
) -> Tensor:
    """Return the crops changed as the settings say; what was given is not changed.

    Args:
        samples_BT: crops.
        draws_B: what each crop's draw depends on, for example seed, epoch and item.
        settings: the largest changes.
        sample_rate: in Hz.
    """
    if settings == AugmentSettings():
        return samples_BT
    return torch.stack(
        [
            _one(clip_T, settings, sample_rate, np.random.default_rng([*draw, 4]))
            for clip_T, draw in zip(samples_BT, draws_B)
        ]
    )


def _one(clip_T: Tensor, settings: AugmentSettings, sample_rate: int, generator: np.random.Generator) -> Tensor:
    # All are drawn whether used or not, so that turning one on leaves the others' draws as they were.
    gain, tilt, flip, share, noise_seed = (
        *generator.uniform(-1, 1, 2),
        *generator.random(2),
        generator.integers(2**31),
    )
    factor = 10 ** (gain * settings.gain_db / 20)
    heard_T = clip_T * (-factor if flip < settings.polarity else factor)
    if settings.tilt_db:
        heard_T = tilted(heard_T, tilt * settings.tilt_db, sample_rate)
    if settings.noise_db is not None:
        level = heard_T.square().mean().sqrt() * 10 ** (-(settings.noise_db + 20 * share) / 20)
        seeded = torch.Generator().manual_seed(int(noise_seed))
        heard_T = heard_T + level * torch.randn(len(heard_T), generator=seeded).to(heard_T.device)
    return heard_T


def tilted(clip_T: Tensor, decibels: float, sample_rate: int) -> Tensor:
    """Return the clip with its spectrum tilted by so many dB an octave about 1 kHz."""
    hertz_K = torch.fft.rfftfreq(len(clip_T), 1 / sample_rate, device=clip_T.device).clamp(min=LOWEST_HZ)
    factors_K = 10 ** (decibels * torch.log2(hertz_K / PIVOT_HZ) / 20)
    return torch.fft.irfft(torch.fft.rfft(clip_T) * factors_K, len(clip_T))
