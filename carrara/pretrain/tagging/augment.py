"""Mixup of whole crops and masks over the spectrogram, both on normalised log-mel (encoders.md, section 1.5).

Mixup: each crop becomes λ of itself and 1 - λ of another crop of its batch, and its tags likewise, with λ drawn from
Beta(α, α) and replaced by 1 - λ where that is more. Masks (SpecAugment): stretches of frames and of bands are set to
the mean, which is 0 where it is taken off. In the published code the masked tensor is thrown away; here it is what the
network hears. Masks come after mixup, so that what is masked is gone.

Letters: B batch, F frames, M mel bands, K masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from carrara.pretrain.tagging.settings import SpecAugmentSettings


@dataclass(frozen=True)
class Mixing:
    """Which other crop each crop is mixed with, and how much of its own it keeps."""

    other_B: Tensor
    own_B: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return anything that has a batch axis, mixed: spectrograms or tags."""
        own = self.own_B.to(x).view(-1, *[1] * (x.ndim - 1))
        return own * x + (1 - own) * x[self.other_B.to(x.device)]


def mixing(batch: int, alpha: float, draw: np.random.Generator) -> Mixing:
    """Return how the crops of a batch are mixed; an `alpha` of 0 leaves them as they are."""
    if not alpha:
        return Mixing(torch.arange(batch), torch.ones(batch))
    other_B, own_B = draw.permutation(batch), draw.beta(alpha, alpha, size=batch)
    return Mixing(torch.from_numpy(other_B), torch.from_numpy(np.maximum(own_B, 1 - own_B)))


def masked(mel_BFM: Tensor, settings: SpecAugmentSettings, draw: np.random.Generator, mean: float = 0.0) -> Tensor:
    """Return the spectrograms with masks of each crop's own, filled with the mean; what was given is not changed."""
    batch, frames, bands = mel_BFM.shape
    longest = min(settings.frames, int(settings.max_fraction * frames))
    gone_BF = _stretches(batch, frames, settings.time_masks, longest, draw)
    gone_BM = _stretches(batch, bands, settings.band_masks, min(settings.bands, bands), draw)
    return mel_BFM.masked_fill((gone_BF[:, :, None] | gone_BM[:, None]).to(mel_BFM.device), mean)


def _stretches(batch: int, size: int, masks: int, longest: int, draw: np.random.Generator) -> Tensor:
    """Return which places lie in one of the masks, whose lengths are drawn from 0 to `longest`, `[batch, size]`."""
    length_BK = draw.integers(longest + 1, size=(batch, masks))
    first_BK = draw.integers(size - length_BK + 1)
    place = np.arange(size)
    inside = (place >= first_BK[..., None]) & (place < (first_BK + length_BK)[..., None])
    return torch.from_numpy(inside.any(axis=1))
