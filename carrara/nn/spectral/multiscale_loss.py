"""A differentiable spectral distance: log-mel spectra at several resolutions.

Windows of 32 to 2048 samples, hop a quarter of each, so that both clicks and chords count ([defossez2022], after
[gritsenko2020]). For each resolution the mean absolute and the root mean squared difference of the bands' logarithms
are added; the distance is the mean over the resolutions. Without a discriminator this decides what a codec keeps; it
leaves a buzz that a discriminator would remove, which does not matter for labels.

Letters: B batch, T samples, F frames, M bands.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from carrara.nn.spectral.framing import framing_preset
from carrara.nn.spectral.mel import MelBands, MelSpectrogram

WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
MAX_BANDS = 64
# Power below this counts as silence: a difference there is inaudible, but its logarithm is large.
FLOOR = 1e-5


class SpectralDistance(nn.Module):
    """The mean distance of two batches of audio `[B, T]`."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        # A short window has too few frequencies for many bands: some triangles would lie between two of them.
        self.scales = nn.ModuleList(
            MelSpectrogram(
                sample_rate,
                framing_preset("librosa", window=size, hop=size // 4),
                MelBands(min(MAX_BANDS, size // 8)),
            )
            for size in WINDOWS
        )

    def forward(self, first_BT: Tensor, second_BT: Tensor) -> Tensor:
        """Return the distance, a scalar; 0 for the same audio."""
        total = torch.zeros((), device=first_BT.device)
        for scale in self.scales:
            difference_BFM = (scale(first_BT) + FLOOR).log() - (scale(second_BT) + FLOOR).log()
            # The root has no slope at 0.
            root_BF = (difference_BFM.square().mean(dim=-1) + 1e-12).sqrt() - 1e-6
            total = total + difference_BFM.abs().mean() + root_BF.mean()
        return total / len(self.scales)
