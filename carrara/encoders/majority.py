"""A floor without music: one feature that is 1 in every frame, so that a task gets its best constant answer.

A probe on constant features could only learn a constant, so `carrara bench majority` trains none: each task type
computes the constant from the training labels (`ProbeTaskType.constant`): the most frequent class, each tag's
frequency, the mean of numbers, a steady grid of beats. What is not above it was not learnt from the music.

Letters: B batch, T samples, F frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder, EncoderFamily

_HOP = 320


class _NoSettings(Settings):
    """Nothing can be set."""


class _Majority(Encoder):
    """Ones, whatever the samples are."""

    def __init__(self, settings: _NoSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.card = settings, card

    def num_frames(self, samples: int) -> int:
        """Return the number of frames of `samples` samples."""
        return max(samples // _HOP, 1)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return ones, `[B, 1, F, 1]`; zero after each clip's own frames."""
        frames = self.num_frames(samples_BT.shape[-1])
        lengths = [samples_BT.shape[-1]] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
        counts_B = torch.tensor([self.num_frames(int(length)) for length in lengths])
        is_own_BF = torch.arange(frames) < counts_B[:, None]
        return is_own_BF.float()[:, None, :, None].to(samples_BT.device)


_CARD = Card(
    name="majority",
    sample_rate=16_000,
    frame_rate=50.0,
    num_layers=0,
    dim=1,
    is_constant=True,
    commercial_use=True,
    pretraining_task="none",
    input="length of the samples",
    network="none",
)
ENCODER = EncoderFamily(_NoSettings, _Majority, {"majority": (_CARD, _NoSettings())}, has_weights=False)
