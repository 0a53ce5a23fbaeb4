"""Mixup of whole crops, and SpecAugment masks over their log-mel spectrograms [notes/encoders §1.5].

Mixup: each crop becomes λ of itself and 1 - λ of another crop of its batch, and its tags likewise, with λ drawn from
Beta(α, α) and replaced by 1 - λ if that is larger. SpecAugment: masks over frames and bands are filled with the mean.
The published code discards the masked tensor; here the network gets it. Masks come after mixup, so a masked part holds
neither crop.

Letters: B batch, F frames, M mel bands, K masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from carrara.pretrain.tagging.settings import SpecAugmentSettings


@dataclass(frozen=True)
class Mixup:
    """The partner of each crop, and the weight λ of the crop itself."""

    partner_B: Tensor
    weight_B: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return a tensor with a batch axis, such as spectrograms or tags, mixed."""
        weight = self.weight_B.to(x).view(-1, *[1] * (x.ndim - 1))
        return weight * x + (1 - weight) * x[self.partner_B.to(x.device)]


def draw_mixup(batch: int, alpha: float, rng: np.random.Generator) -> Mixup:
    """Return partners and weights for a batch; an `alpha` of 0 leaves the crops as they are."""
    if not alpha:
        return Mixup(torch.arange(batch), torch.ones(batch))
    partner_B, weight_B = rng.permutation(batch), rng.beta(alpha, alpha, size=batch)
    return Mixup(torch.from_numpy(partner_B), torch.from_numpy(np.maximum(weight_B, 1 - weight_B)))


def mask_spectrograms(
    mel_BFM: Tensor, settings: SpecAugmentSettings, rng: np.random.Generator, mean: float = 0.0
) -> Tensor:
    """Return a copy of the spectrograms with masks of their own, filled with the mean."""
    batch, frames, bands = mel_BFM.shape
    longest = min(settings.max_frames, int(settings.max_fraction * frames))
    masked_BF = _draw_masks(batch, frames, settings.time_masks, longest, rng)
    masked_BM = _draw_masks(batch, bands, settings.band_masks, min(settings.max_bands, bands), rng)
    return mel_BFM.masked_fill((masked_BF[:, :, None] | masked_BM[:, None]).to(mel_BFM.device), mean)


def _draw_masks(batch: int, size: int, masks: int, longest: int, rng: np.random.Generator) -> Tensor:
    """Return which indices lie in one of the masks, of lengths from 0 to `longest`, bool `[batch, size]`."""
    length_BK = rng.integers(longest + 1, size=(batch, masks))
    first_BK = rng.integers(size - length_BK + 1)
    index = np.arange(size)
    inside = (index >= first_BK[..., None]) & (index < (first_BK + length_BK)[..., None])
    return torch.from_numpy(inside.any(axis=1))
