"""Changes to the student's crops, never to the targets': augmentations and MERT's noise mixup.

The augmentations keep pitch and time, so that labels of the clean crop stay valid: gain, polarity, a spectral tilt (as
of another room or microphone) and white noise. They are ours; no published recipe of this family has them.

In noise mixup [li2024 §3.3] [notes/pretraining §3.5] a crop gets one to three excerpts of half a second to one and a
half, cut from the other crops of its pool in a row and added at random positions. The published code mixes where u > p,
so with probability 1 - p, in validation too, and silently never in a batch of one; here `probability` is the
probability, only the training step calls this, and a pool of one stays as it is. Excerpts come from the crops before
any mixing. A pool is a run of `pool` crops of the whole batch, so mixing does not depend on the number of ranks.

Letters: B batch, T samples, K frequencies, P samples of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from carrara.pretrain.recipes._base import AugmentSettings, MixupSettings

# The tilt leaves this frequency unchanged.
PIVOT_HZ = 1000.0
LOWEST_HZ = 20.0
# Appended to a crop's (seed, epoch, item), so that its draws differ from one another.
MIXUP_DRAW, AUGMENT_DRAW = 3, 4


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
        generator = np.random.default_rng([*draw, AUGMENT_DRAW])
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


def mix_crops(
    samples_BT: Tensor, draws_B: Sequence[Sequence[int]], settings: MixupSettings, sample_rate: int
) -> Tensor:
    """Return copies of the crops with excerpts of one another added.

    Args:
        samples_BT: crops of one rank, in the batch's order.
        draws_B: (seed, epoch, item) of each crop, which determine its draws.
        settings: how often, how long, how loud.
        sample_rate: in Hz.
    """
    if not settings.probability:
        return samples_BT
    mixed_BT = samples_BT.clone()
    crop_samples = samples_BT.shape[1]
    shortest, longest = (
        min(round(seconds * sample_rate), crop_samples) for seconds in (settings.shortest, settings.longest)
    )
    for index, mixed_T in enumerate(mixed_BT):
        pool_start = index - index % settings.pool
        others = [*samples_BT[pool_start:index], *samples_BT[index + 1 : pool_start + settings.pool]]
        generator = np.random.default_rng([*draws_B[index], MIXUP_DRAW])
        if not others or generator.random() >= settings.probability:
            continue
        others_P = torch.cat(others)
        for _ in range(generator.integers(1, settings.excerpts + 1)):
            length = int(generator.integers(shortest, longest + 1))
            start = int(generator.integers(len(others_P) - length + 1))
            position = int(generator.integers(crop_samples - length + 1))
            mixed_T[position : position + length] += settings.volume * others_P[start : start + length]
    return mixed_BT
