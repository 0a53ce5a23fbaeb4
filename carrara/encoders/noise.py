"""A chance-level baseline: pseudo-random numbers that depend on a clip only through a hash of its samples.

A clip always gets the same numbers and no two clips get related ones, so a probe's score on them is what the protocol,
the labels' frequencies and chance give. 64 Gaussian numbers a frame, 50 frames a second.

Letters: B batch, T samples, F frames, L layers counted with layer 0, D dimension.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.encoders._windows import split_clips

_HOP = 320


class _NoSettings(Settings):
    """Nothing can be set."""


class _Noise(Encoder):
    """Gaussian numbers drawn from a generator seeded by the SHA-256 of each clip's samples."""

    def __init__(self, settings: _NoSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.card = settings, card

    def num_frames(self, samples: int) -> int:
        """Return the number of frames of `samples` samples."""
        return max(samples // _HOP, 1)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the numbers, `[B, 1, F, D]`; zero after each clip's own frames."""
        layers_BLFD = torch.zeros(len(samples_BT), 1, self.num_frames(samples_BT.shape[-1]), self.card.dim)
        for layers_LFD, samples_T in zip(layers_BLFD, split_clips(samples_BT.cpu(), lengths_B)):
            content = samples_T.contiguous().numpy().astype("<f4").tobytes()
            seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "little")
            generator = torch.Generator().manual_seed(seed)
            frames = self.num_frames(len(samples_T))
            layers_LFD[0, :frames] = torch.randn(frames, self.card.dim, generator=generator)
        return layers_BLFD.to(samples_BT.device)


_CARD = Card(
    name="noise",
    sample_rate=16_000,
    frame_rate=50.0,
    num_layers=0,
    dim=64,
    commercial_use=True,
    pretraining_task="none",
    input="hash of the samples",
    network="none",
)
ENCODER = EncoderFamily(_NoSettings, _Noise, {"noise": (_CARD, _NoSettings())}, has_weights=False)
