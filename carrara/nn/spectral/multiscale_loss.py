"""How far two sounds are apart to the ear, roughly: log-mel spectra at several resolutions, differentiable.

Windows of 32 to 2048 samples, hop a quarter of each, so that both clicks and chords count (EnCodec, Défossez et al.
2022, after Gritsenko et al. 2020). Of the logarithms of each resolution's bands the mean of the absolute and the root
of the mean squared difference are added up and averaged over the resolutions. Without a discriminator this decides what
a codec keeps; it leaves a buzz that a discriminator would take away, which does not matter for labels.

Letters: B batch, T samples, F frames, M bands.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from carrara.nn.spectral.framing import preset
from carrara.nn.spectral.mel import Bands, MelSpectrogram

WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
MOST_BANDS = 64
# What is this far below full scale counts as silent: a difference there is not heard, but its logarithm is large.
FLOOR = 1e-5


class SpectralDistance(nn.Module):
    """Two batches of sounds `[B, T]` to their mean distance."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        # A short window has too few frequencies for many bands: some triangles would stand between two of them.
        self.scales = nn.ModuleList(
            MelSpectrogram(
                sample_rate, preset("librosa", window=size, hop=size // 4), Bands(min(MOST_BANDS, size // 8))
            )
            for size in WINDOWS
        )

    def forward(self, one_BT: Tensor, other_BT: Tensor) -> Tensor:
        """Return the distance, a scalar; 0 for the same sounds."""
        total = torch.zeros((), device=one_BT.device)
        for scale in self.scales:
            difference_BFM = (scale(one_BT) + FLOOR).log() - (scale(other_BT) + FLOOR).log()
            # The root has no slope at 0.
            root_BF = (difference_BFM.square().mean(dim=-1) + 1e-12).sqrt() - 1e-6
            total = total + difference_BFM.abs().mean() + root_BF.mean()
        return total / len(self.scales)
